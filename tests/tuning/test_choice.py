"""What the library says of its choice among the methods of a convolution, and other choices in its place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import crossd_ops
from crossd_ops.tuning import choice

pytestmark = pytest.mark.usefixtures("compiled_library")
PLACE = (1, 1, 1, 1)
_set: list[tuple[int, ...]] = []


@pytest.fixture(autouse=True)
def _without_trace() -> Iterator[None]:
    yield
    while _set:
        choice.set_method(_set.pop(), None)


def force(found: choice.Choice, method: str) -> None:
    _set.append(found.key)
    choice.set_method(found.key, method)


def problem(samples: int, channels: int, pixels: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Input, weight and shift; values of the two first are wholes, so that every order of sums gives the same."""
    torch.manual_seed(0)
    input = torch.randint(-3, 4, (samples, channels, pixels, pixels)).to(dtype)
    weight = torch.randint(-3, 4, (channels, channels, 3, 3, 3)).to(dtype)
    return input, weight, torch.randn(samples, 3)


@pytest.mark.parametrize(
    ("samples", "channels", "pixels", "backward", "expected"),
    [
        (2, 4, 6, False, "small"),  # few multiply-adds
        (2, 4, 6, True, "matrix"),  # few columns
        (2, 64, 9, False, "matrix"),  # few pixels
        (4, 8, 96, False, "loop"),  # few channels
        (4, 64, 40, True, "grouped"),
    ],
)
def test_choice_on_the_cpu(samples: int, channels: int, pixels: int, backward: bool, expected: str) -> None:
    found = choice.explain(*problem(samples, channels, pixels), PLACE, backward=backward)
    assert found.method == expected and len(found.why) > 10
    assert found.method in found.possible and ("small" in found.possible) is not backward
    assert all(cost.seconds is None for cost in found.costs.values())


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_of_one_element_are_matrices_on_the_cpu(stride: int, backward: bool) -> None:
    input, given = torch.ones(4, 64, 40, 40), torch.ones(4, 64, 64, 1, 1)
    found = choice.explain(input, given, None, (stride, 0, 1, 1), backward=backward)
    assert found.method == "matrix" and "one element" in found.why


def test_costs_are_those_of_the_sizes() -> None:
    samples, channels, pixels = 4, 16, 10
    found = choice.explain(*problem(samples, channels, pixels), PLACE, backward=False, on_gpu=True)
    image, columns, pairs = samples * channels * pixels**2, samples * channels * 9 * pixels**2, channels**2
    assert found.costs["matrix"].multiply_adds == columns * channels
    made = pairs * (27 + samples * 9)  # the weight is read, the kernels are written
    assert found.costs["matrix"].bytes == 4 * (2 * image + samples * pairs * 9 + 2 * columns + made)
    assert found.costs["plain"].bytes == 4 * (2 * image + pairs * 9)
    assert found.costs["shared"].multiply_adds == 3 * columns * channels
    assert found.costs["shared"].bytes == 4 * (2 * image + 3 * pairs * 27 + 6 * columns + 4 * image)  # channels-last
    assert found.possible == ["grouped", "matrix", "tiles", "shared"]  # float32 may be rounded by default
    of = {name: found.costs[name].seconds for name in ("plain", *found.possible)}
    assert all(seconds is not None for seconds in of.values())
    assert found.method == min(found.possible, key=lambda name: of[name] or 0)
    back = choice.explain(*problem(samples, channels, pixels), PLACE, backward=True, on_gpu=True)
    assert back.costs["matrix"].bytes == 2 * found.costs["matrix"].bytes
    assert back.costs["shared"].bytes == 2 * (found.costs["shared"].bytes + 4 * columns)  # of what is seen


@pytest.mark.parametrize(
    ("channels", "groups", "dtype", "channels_last", "padding", "fits"),
    [
        (64, 1, torch.bfloat16, True, 1, True),
        (48, 2, torch.float16, True, 1, True),
        (64, 1, torch.bfloat16, False, 1, True),
        (64, 1, torch.float32, False, 1, True),
        (64, 1, torch.float32, True, 1, True),  # rounded to TF32, see test_tf32.py
        (64, 1, torch.float64, True, 1, False),
        (48, 4, torch.bfloat16, True, 1, False),
        (64, 1, torch.bfloat16, True, 5000, False),
    ],
)
def test_tiles_on_a_gpu(
    channels: int, groups: int, dtype: torch.dtype, channels_last: bool, padding: int, fits: bool
) -> None:
    """Of images in whole vectors of the channels of a group, of which contiguous ones are copied."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    with torch.device("meta"):
        input = torch.empty(4, channels, 28, 28, dtype=dtype).contiguous(memory_format=format)
        weight, shift = torch.empty(channels, channels // groups, 3, 3, 3, dtype=dtype), torch.empty(4, 3)
    found = choice.explain(input, weight, shift, (1, padding, 1, groups), backward=False, on_gpu=True)
    assert ("tiles" in found.possible) == fits
    back = choice.explain(input, weight, shift, (1, padding, 1, groups), backward=True, on_gpu=True)
    assert ("tiles" in back.possible) == fits
    if channels_last:  # copies of contiguous images take as long as their columns here
        assert (found.method == "tiles") == (back.method == "tiles") == fits
    tiles, plain = found.costs["tiles"], found.costs["plain"]
    pairs = channels * channels // groups
    copied = 0 if channels_last else 4 * input.numel()  # and as large a result
    assert tiles.bytes == plain.bytes + dtype.itemsize * (pairs * (3 * 9 + 27 + 4 * 9) + copied)
    assert tiles.seconds is not None and plain.seconds is not None and tiles.seconds > plain.seconds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_first_layer_on_a_gpu(dtype: torch.dtype) -> None:
    """Goes to tiles, in pairs of pixels with zeros behind their channels, where its input needs no gradient."""
    samples, channels, out_channels, side, pixels = 32, 3, 64, 224, 112
    with torch.device("meta"):
        input = torch.empty(samples, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight, shift = torch.empty(out_channels, channels, 7, 7, 7), torch.empty(samples, 3)
    found, back, whole = (
        choice.explain(input, weight, shift, (2, 3, 1, 1), backward=backward, on_gpu=True, need_input=need_input)
        for backward, need_input in ((False, True), (True, False), (True, True))
    )
    assert found.method == back.method == "tiles" in whole.possible
    assert back.costs["matrix"].bytes * 2 == whole.costs["matrix"].bytes
    image, taps = (samples * side * 115 * 8, 7 * 4 * 8) if dtype is torch.bfloat16 else (samples * side**2 * 4, 49 * 4)
    kernels = samples * out_channels * channels * 49
    elements = input.numel() + samples * out_channels * pixels**2 + 2 * kernels + weight.numel()
    elements += 3 * (image + samples * out_channels * taps)  # zeros, those that are not, and what is read
    assert found.costs["tiles"].bytes == dtype.itemsize * elements


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("method", choice.METHODS)
def test_a_method_that_is_set_runs_and_gives_the_same(method: str, backward: bool) -> None:
    input, weight, shift = problem(3, 8, 12)
    tensors = [tensor.requires_grad_() for tensor in (input, weight, shift)]

    def results() -> list[Tensor]:
        output = crossd_ops.crossd_conv2d(*tensors, padding=1)
        return [output.detach(), *torch.autograd.grad(output.sum(), tensors)]

    expected = results()
    found = choice.explain(input, weight, shift, PLACE, backward=backward)
    if method not in found.possible:
        pytest.skip(f"no {method} of this direction")
    force(found, method)
    again = choice.explain(input, weight, shift, PLACE, backward=backward)
    assert (again.method, again.why) == (method, "measured")
    for result, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-3)


def test_a_method_of_another_problem_changes_nothing() -> None:
    tensors = problem(3, 8, 12)
    before = choice.explain(*tensors, PLACE, backward=False)
    for other in (problem(2, 8, 12), problem(3, 8, 12, torch.float64), problem(3, 8, 13)):
        force(choice.explain(*other, PLACE, backward=False), "grouped")
    force(choice.explain(*tensors, PLACE, backward=True), "loop")
    force(choice.explain(*tensors, (2, 1, 1, 1), backward=False), "loop")
    force(choice.explain(*tensors, PLACE, backward=False, on_gpu=True), "grouped")
    assert choice.explain(*tensors, PLACE, backward=False) == before


@pytest.mark.parametrize(
    ("samples", "channels", "sizes", "dtype", "expected"),
    [
        (32, 512, (7, 7), torch.bfloat16, "shared"),  # few pixels of many channels
        (32, 256, (14, 14), torch.bfloat16, "tiles"),
        (32, 512, (7, 7), torch.float32, "shared"),  # rounded to TF32, as its products are
        (4, 256, (4, 4, 4), torch.bfloat16, "shared"),  # a volume: as many columns, and no kernels
        (1, 512, (7, 7), torch.bfloat16, "grouped"),
    ],
)
def test_the_shared_weight_on_a_gpu(
    samples: int, channels: int, sizes: tuple[int, ...], dtype: torch.dtype, expected: str
) -> None:
    """Where kernels of each sample would take longer to make; never where they are given. Without memory."""
    format = torch.channels_last if len(sizes) == 2 else torch.channels_last_3d
    with torch.device("meta"):
        input = torch.empty(samples, channels, *sizes, dtype=dtype).contiguous(memory_format=format)
        weight, shift = torch.empty(channels, channels, 3, 3, 3, dtype=dtype), torch.empty(samples, 3)
        kernels = torch.empty(samples, channels, channels, *[3] * len(sizes), dtype=dtype)
        for backward in (False, True):
            found = choice.explain(input, weight, shift, PLACE, backward=backward, on_gpu=True)
            assert found.method == expected
            assert "shared" not in choice.explain(input, kernels, None, PLACE, backward=backward, on_gpu=True).possible


def of_given_kernels(layer: choice.Choice, made: int) -> dict[str, choice.Cost]:
    """A layer's costs but for what makes its kernels, and without the weight's way."""
    costs = {name: cost for name, cost in layer.costs.items() if name != "shared"}
    return {name: cost if name == "plain" else cost._replace(bytes=cost.bytes - made) for name, cost in costs.items()}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
def test_given_kernels_are_the_same_problem(axes: int, backward: bool) -> None:
    """As a layer's convolution with kernels of these sizes; of volumes too."""
    channels, groups = 8, 2
    input, weight = torch.ones(3, channels, *[6] * axes), torch.ones(channels, channels // groups, 3, 3, 3)
    given = torch.ones(3, channels, channels // groups, *[3] * axes)
    place = (1, 1, 1, groups)
    layer = choice.explain(input, weight, torch.ones(3, 3), place, backward=backward)
    found = choice.explain(input, given, None, place, backward=backward)
    assert "shared" not in found.possible  # which is of a weight
    elements = channels * (channels // groups)
    made = 4 * elements * (27 + 3 * 3**axes) * (2 if backward else 1)
    assert found._replace(costs=of_given_kernels(found, 0)) == layer._replace(costs=of_given_kernels(layer, made))
    force(layer, "loop")
    assert choice.explain(input, given, None, place, backward=backward)[1:3] == ("loop", "measured")
    with pytest.raises(ValueError, match=r"weight: expected \(B, O, C, "):
        choice.explain(input, given[0], None, place, backward=backward)


def test_none_is_what_the_library_chooses() -> None:
    tensors = problem(3, 8, 12)
    before = choice.explain(*tensors, PLACE, backward=False)
    choice.set_method(before.key, "loop")
    choice.set_method(before.key, None)
    assert choice.explain(*tensors, PLACE, backward=False) == before


def test_refusals() -> None:
    input, weight, shift = problem(3, 8, 12)
    key = choice.explain(input, weight, shift, PLACE, backward=True).key
    with pytest.raises(ValueError, match="method: expected grouped, loop, matrix, small, tiles or shared, got best"):
        choice.set_method(key, "best")
    force(choice.explain(input, weight, shift, PLACE, backward=True), "small")
    output = crossd_ops.crossd_conv2d(input.requires_grad_(), weight, shift, padding=1)
    message = r"method: expected one of grouped, loop, matrix, shared for the gradients of a convolution with results "
    message += r"\(3, 8, 12, 12\) and kernels \(3, 3\), got small, set by the file that CROSSD_TUNING names"
    with pytest.raises(ValueError, match=message):
        output.sum().backward()
    with pytest.raises(ValueError, match="input: expected samples and channels"):
        choice.explain(input[:0], weight, shift[:0], PLACE, backward=False)
