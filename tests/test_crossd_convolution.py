"""The layer's one step of autograd: kernels made in blocks of output channels, on every backend."""

from __future__ import annotations

import pytest
import torch

from crossd_ops import _crossd_convolution, crossd_conv2d, crossd_conv3d, use_backend


def results(arguments: dict[str, torch.Tensor], **options: object) -> tuple[torch.Tensor, ...]:
    """Output and gradients of a convolution, of everything that wants one."""
    inputs = {name: tensor.clone().requires_grad_(tensor.requires_grad) for name, tensor in arguments.items()}
    convolution = crossd_conv2d if arguments["input"].dim() == 4 else crossd_conv3d
    output = convolution(**inputs, **options)
    wanted = [tensor for tensor in inputs.values() if tensor.requires_grad]
    return output, *torch.autograd.grad(output, wanted, output.detach().cos())


def problem(dtype: torch.dtype, *, volume: bool = False) -> dict[str, torch.Tensor]:
    sizes = (5, 4, 6) if volume else (7, 6)
    tensors = {
        "input": torch.randn(3, 5, *sizes),
        "weight": torch.randn(70, 5, 3, 3, 3),
        "shift": 1 + torch.randn(3, 3) / 4,
        "bias": torch.randn(70),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[slice]:
    """Blocks of 32 rows, and what they were."""
    seen: list[slice] = []
    original = _crossd_convolution._blocks
    monkeypatch.setattr(_crossd_convolution, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(_crossd_convolution, "_blocks", lambda *a: [*map(note(seen), original(*a))])
    return seen


def note(seen: list[slice]):  # type: ignore[no-untyped-def]
    """Keeps what passes through."""
    return lambda rows: seen.append(rows) or rows


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": "valid"}, {"dilation": 2, "padding": 2}])
def test_blocks_agree_with_the_reference_in_float64(
    backend: str, volume: bool, options: dict[str, object], small_blocks: list[slice]
) -> None:
    arguments = problem(torch.float64, volume=volume)
    found = results(arguments, **options)
    if backend != "reference":
        assert {(rows.start, rows.stop) for rows in small_blocks} == {(0, 32), (32, 64), (64, 96)}
    with use_backend("reference"):
        expected = results(arguments, **options)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("method", ["loop", "grouped", "matrix"])
def test_blocks_of_every_method(method: str, small_blocks: list[slice], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = problem(torch.float64)
    with use_backend("reference"):
        expected = results(arguments, padding=1)
    monkeypatch.setattr("crossd_ops._convolution.method", lambda *a, **k: method)
    for got, want in zip(results(arguments, padding=1), expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("frozen", ["input", "weight", "shift", "bias"])
def test_blocks_where_one_gradient_is_not_needed(frozen: str, small_blocks: list[slice]) -> None:
    arguments = problem(torch.float32)
    arguments[frozen].requires_grad_(False)
    found = results(arguments, padding=1)
    with use_backend("reference"):
        expected = results(arguments, padding=1)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-4)


def test_second_derivatives_come_from_one_block(small_blocks: list[slice]) -> None:
    def second(name: str) -> tuple[torch.Tensor, ...]:
        tensors = problem(torch.float64)
        with use_backend(name):
            output = crossd_conv2d(**tensors)
            first = torch.autograd.grad(output, [*tensors.values()], output.detach().cos(), create_graph=True)
            return torch.autograd.grad(sum(item.sin().sum() for item in first[:3]), [*tensors.values()][:3])

    torch.manual_seed(1)
    found = second("compiled")
    torch.manual_seed(1)
    for got, want in zip(found, second("reference"), strict=True):
        torch.testing.assert_close(got, want)


def test_no_gradient_no_graph(small_blocks: list[slice]) -> None:
    arguments = {name: tensor.detach() for name, tensor in problem(torch.float32).items()}
    with use_backend("reference"):
        expected = crossd_conv2d(**arguments)
    torch.testing.assert_close(crossd_conv2d(**arguments), expected, atol=2e-4, rtol=1e-4)
    assert small_blocks


def test_groups_stay_whole(small_blocks: list[slice]) -> None:
    weight = torch.randn(64, 2, 3, 3, 3)
    output = crossd_conv2d(torch.randn(2, 4, 6, 6), weight, torch.rand(2, 3), groups=2)
    assert output.shape == (2, 64, 4, 4)
    assert small_blocks == [slice(0, 64)]


@pytest.mark.parametrize("method", ["loop", "grouped"])
def test_the_result_may_be_changed_in_place(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossd_ops._convolution.method", lambda *a, **k: method)
    arguments = problem(torch.float64)
    expected = torch.autograd.grad(crossd_conv2d(**arguments).relu().sum(), [*arguments.values()])
    found = torch.autograd.grad(crossd_conv2d(**arguments).relu_().sum(), [*arguments.values()])
    torch.testing.assert_close(found, expected)
