"""The first call of a problem tries the methods; on the CPU here, with a clock that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor

import crossd_ops
from crossd_ops.operators import convolution
from crossd_ops.operators.sample_convolution import derivatives
from crossd_ops.tuning import choice, clock, first_call

pytestmark = pytest.mark.usefixtures("compiled_library")
PLACE = (1, 1, 1, 1)


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(3, 8, 12, 12), torch.randn(8, 8, 3, 3, 3), torch.randn(3, 3)


def given_kernels() -> tuple[Tensor, Tensor]:
    """Of a problem that is the same."""
    return torch.randn(3, 8, 12, 12), torch.randn(3, 8, 8, 3, 3)


def explained(*, backward: bool = False) -> choice.Choice:
    return choice.explain(*tensors(), PLACE, backward=backward)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(first_call, "_seen", set())
    yield
    for backward in (False, True):
        choice.set_method(explained(backward=backward).key, None)


def with_clock(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> list[str]:
    """The methods that are timed, each of which takes so long; the call runs by that method."""
    timed: list[str] = []

    def seconds_of(calls: Mapping[str, Callable[[], object]], *_: object) -> dict[str, float]:
        ((name, call),) = calls.items()
        assert (explained().method, explained().why) == (name, "measured")
        call()
        timed.append(name)
        if seconds[name] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {name: seconds[name]}

    monkeypatch.setattr(clock, "seconds_of", seconds_of)
    return timed


def try_methods() -> dict[str, float]:
    input, weight, shift = tensors()
    call = lambda: convolution.eager_forward(input, weight, shift, None, PLACE)  # noqa: E731
    return first_call.try_methods(call, (input, weight, shift), PLACE, backward=False)


def test_the_quickest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = with_clock(monkeypatch, {"grouped": 3.0, "loop": 1.0, "matrix": 2.0, "small": 4.0, "shared": 5.0})
    assert set(try_methods()) == {*timed} == {"grouped", "loop", "matrix", "small", "shared"}
    assert (explained().method, explained().why) == ("loop", "measured")
    assert try_methods() == {} and len(timed) == 5  # once


def test_given_kernels_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = with_clock(monkeypatch, {"grouped": 3.0, "loop": 2.0, "matrix": 1.0, "small": 4.0, "shared": 5.0})
    input, weight = given_kernels()
    call = lambda: derivatives._eager_forward(input, weight, None, PLACE)  # noqa: E731
    assert set(first_call.try_methods(call, (input, weight), PLACE, backward=False)) == {*timed} != set()
    assert (explained().method, explained().why) == ("matrix", "measured")


def test_given_kernels_of_the_sizes_of_a_weight_are_another_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """(B, O, C, Kh, Kw) is also (O, C, K, K, K)."""
    monkeypatch.setattr(clock, "seconds_of", lambda calls, *_: dict.fromkeys(calls, 1.0))
    input, weight, shift = torch.randn(8, 3, 12, 12), torch.randn(8, 3, 3, 3, 3), torch.randn(8, 3)
    for arguments in ((input, weight), (input, weight, shift)):
        assert first_call.try_methods(lambda: None, arguments, PLACE, backward=False)
        choice.set_method(choice.explain(*(*arguments, None)[:3], PLACE, backward=False).key, None)


def test_one_without_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(monkeypatch, {"grouped": 3.0, "loop": -1.0, "matrix": 2.0, "small": 4.0, "shared": 5.0})
    assert "loop" not in try_methods()
    assert explained().method == "matrix"


def test_other_errors_come_through_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, float]:
        raise RuntimeError("a kernel failed")

    before = explained()
    monkeypatch.setattr(clock, "seconds_of", fail)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        try_methods()
    assert explained() == before


def test_what_was_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = with_clock(monkeypatch, {})
    choice.set_method(explained().key, "grouped")
    assert try_methods() == {} and not timed
    assert explained().method == "grouped"


def test_not_under_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = with_clock(monkeypatch, {"grouped": 3.0, "loop": 1.0, "matrix": 2.0, "small": 4.0, "shared": 5.0})
    torch.use_deterministic_algorithms(True)
    try:
        assert try_methods() == {} and not timed
    finally:
        torch.use_deterministic_algorithms(False)
    assert try_methods()  # nor does that count as tried


def test_a_real_clock() -> None:
    found = try_methods()
    assert set(found) == set(explained().possible) and all(seconds > 0 for seconds in found.values())
    assert explained().method == min(found, key=found.__getitem__)


class _OnGpu(Tensor):
    is_cuda = True


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("wanted", "capturing", "tried"), [(True, False, 1), (False, False, 0), (True, True, 0)])
def test_when_a_call_tries(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, capturing: bool, tried: int, given: bool, backward: bool
) -> None:
    asked: list[tuple[tuple[Tensor, ...], object]] = []
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(first_call, "_is_wanted", lambda: wanted)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(
        first_call, "try_methods", lambda call, tensors, place, backward: asked.append((tensors, place))
    )
    operator = first_call.tried_before(lambda *found: len(found), backward=backward, kernels_are_given=given)
    input, *rest = given_kernels() if given else tensors()
    sought = (input.as_subclass(_OnGpu), *rest)
    arguments = (torch.ones(1), *sought, PLACE, True) if backward else (*sought, None, PLACE)
    assert operator(*arguments) == len(arguments)
    assert [(*map(id, found), place) for found, place in asked] == [(*map(id, sought), PLACE)] * tried


def test_calls_with_given_kernels_try_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("_eager_forward", "_eager_backward"):
        operator = getattr(derivatives, name)
        noted = lambda *arguments, name=name, operator=operator: (seen.append(name), operator(*arguments))[1]  # noqa: E731
        monkeypatch.setattr(derivatives, name, noted)
    input, weight = given_kernels()
    crossd_ops.sample_conv2d(input, weight, padding=1)
    crossd_ops.sample_conv2d(input, weight.requires_grad_(), padding=1).sum().backward()
    assert seen == ["_eager_forward", "_eager_forward", "_eager_backward"]


def test_without_cuda_the_operator_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert first_call.tried_before(len, backward=False) is len
