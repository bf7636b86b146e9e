"""The layer's one step of autograd: kernels made in blocks of output channels, on every backend."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import profile

from crossd_ops import crossd_conv2d, crossd_conv3d, sample_conv2d, use_backend
from crossd_ops.tuning import choice

pytestmark = pytest.mark.usefixtures("compiled_library")


def results(arguments: dict[str, torch.Tensor], **options: object) -> tuple[torch.Tensor, ...]:
    """Output and gradients of a convolution, of everything that wants one."""
    inputs = {name: tensor.clone().requires_grad_(tensor.requires_grad) for name, tensor in arguments.items()}
    convolution = crossd_conv2d if arguments["input"].dim() == 4 else crossd_conv3d
    output = convolution(**inputs, **options)
    wanted = [tensor for tensor in inputs.values() if tensor.requires_grad]
    return output, *torch.autograd.grad(output, wanted, output.detach().cos())


# The kernels of all samples take more than the 16 MB of a block (csrc/convolution/problem.h), and the last block has
# fewer channels than the others.
SIZES = {
    "matrix": (150, (7, 6)),
    "matrix of volumes": (50, (4, 4, 5)),
    "grouped": (150, (12, 10)),
    "loop over few channels": (15, (12, 12, 7)),
}
BLOCKS = pytest.mark.parametrize("channels, sizes", SIZES.values(), ids=SIZES)


def problem(dtype: torch.dtype, channels: int = 150, sizes: tuple[int, ...] = (7, 6)) -> dict[str, torch.Tensor]:
    kernel = (3, 3, 3)
    elements = 3 * channels * 9 * (1 if len(sizes) == 2 else 3) * dtype.itemsize
    tensors = {
        "input": torch.randn(3, channels, *sizes),
        "weight": torch.randn((20 << 20) // elements, channels, *kernel),
        "shift": 1 + torch.randn(3, 3) / 4,
    }
    tensors["bias"] = torch.randn(len(tensors["weight"]))
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}


@BLOCKS
def test_blocks_agree_with_the_reference_in_float64(channels: int, sizes: tuple[int, ...]) -> None:
    arguments = problem(torch.float64, channels, sizes)
    found = results(arguments, padding=1)
    with use_backend("reference"):
        expected = results(arguments, padding=1)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


@BLOCKS
@pytest.mark.parametrize("frozen", ["input", "weight", "shift", "bias"])
def test_blocks_where_one_gradient_is_not_needed(channels: int, sizes: tuple[int, ...], frozen: str) -> None:
    arguments = problem(torch.float32, channels, sizes)
    expected = dict(zip(("output", *arguments), results(arguments, padding=1), strict=True))
    del expected[frozen]
    arguments[frozen].requires_grad_(False)
    torch.testing.assert_close(results(arguments, padding=1), tuple(expected.values()))


def test_second_derivatives() -> None:
    def second(name: str) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        tensors = problem(torch.float64)
        with use_backend(name):
            output = crossd_conv2d(**tensors)
            first = torch.autograd.grad(output, [*tensors.values()], output.detach().cos(), create_graph=True)
            return torch.autograd.grad(sum(item.sin().sum() for item in first[:3]), [*tensors.values()][:3])

    for got, want in zip(second("compiled"), second("reference"), strict=True):
        torch.testing.assert_close(got, want)


def test_no_gradient_no_graph() -> None:
    arguments = {name: tensor.detach() for name, tensor in problem(torch.float32).items()}
    with use_backend("reference"):
        expected = crossd_conv2d(**arguments)
    output = crossd_conv2d(**arguments)
    torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-3)
    assert output.grad_fn is None


@BLOCKS
def test_the_result_is_no_view_and_may_be_changed_in_place(channels: int, sizes: tuple[int, ...]) -> None:
    arguments = problem(torch.float32, channels, sizes)
    for few in (slice(None), slice(6)):  # several blocks, one block
        some = {name: item.detach()[few if item.dim() in (1, 5) else ...] for name, item in arguments.items()}
        assert not crossd_convolution_of(some)._is_view()
        wanted = [tensor.requires_grad_() for tensor in some.values()]
        expected = torch.autograd.grad(crossd_convolution_of(some).relu().sum(), wanted)
        found = torch.autograd.grad(crossd_convolution_of(some).relu_().sum(), wanted)
        torch.testing.assert_close(found, expected)


def crossd_convolution_of(arguments: dict[str, torch.Tensor]) -> torch.Tensor:
    return (crossd_conv2d if arguments["input"].dim() == 4 else crossd_conv3d)(**arguments)


def test_an_operator_leaves_nothing_in_autograd() -> None:
    """Its inputs may want a gradient: part of one would be worse than none."""
    input, weight, shift, bias = (tensor for tensor in problem(torch.float32, 4).values())
    output = torch.ops.crossd_ops.convolution(input, weight[:8], shift, bias[:8], [1, 1, 1, 1, 1, 1, 1, 0, 1])
    assert torch.is_grad_enabled()
    with pytest.warns(UserWarning, match="autograd kernel was not registered"):
        output.sum().backward()
    assert input.grad is None
    assert bias.grad is None


def test_numbers_whose_lengths_add_up_to_the_right_one() -> None:
    arguments = list(problem(torch.float32, 4).values())
    with pytest.raises(ValueError, match=r"stride: expected one int or 2, each at least 1, got \(2,\)"):
        crossd_conv2d(*arguments, (2,), (1, 1, 1))


def test_a_tensor_that_outlived_torch_func() -> None:
    """Autograd's function is called without torch's own search for such tensors."""
    kept: list[torch.Tensor] = []
    given = problem(torch.float32, 4)
    torch.func.grad(lambda tensor: kept.append(tensor) or tensor.sum())(given["input"].detach())
    found = crossd_conv2d(**given | {"input": kept[0]})
    expected = crossd_conv2d(**given | {"input": given["input"].detach()})
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad(output.sum(), given["weight"])[0] for output in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_few_multiply_adds_in_half_types_are_rounded_once(dtype: torch.dtype, format: torch.memory_format) -> None:
    """They are done in float32, kernels included, whatever the type of the weight."""
    weight, shift, bias = torch.randn(6, 2, 3, 3, 2), torch.randn(3, 3), torch.randn(6)
    half = torch.randn(3, 4, 6, 7).to(dtype, memory_format=format)
    with torch.autocast("cpu", dtype):
        found = crossd_conv2d(half, weight, shift, bias, padding=1, groups=2)
    exact = crossd_conv2d(half.float(), weight, shift, bias.to(dtype).float(), padding=1, groups=2)
    assert found.dtype is dtype and found.is_contiguous(memory_format=format)
    torch.testing.assert_close(found, exact.to(dtype), rtol=0, atol=0)
    kernels = torch.randn(3, 6, 2, 3, 2).to(dtype)
    found = sample_conv2d(half, kernels, bias.to(dtype), groups=2)
    exact = sample_conv2d(half.float(), kernels.float(), bias.to(dtype).float(), groups=2)
    torch.testing.assert_close(found, exact.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("method", ["grouped", "loop", "matrix"])
def test_the_gradient_of_the_input_alone_asks_for_kernels_again(method: str, frozen: bool) -> None:
    """A network's first layer builds none in its backward pass."""
    image, weight, shift = torch.randn(3, 4, 9, 8), torch.randn(6, 4, 3, 3, 3), torch.randn(3, 3)
    key = choice.explain(image, weight, shift, (1, 1, 1, 1), backward=True).key
    choice.set_method(key, method)
    wanted = [tensor.requires_grad_() for tensor in ((weight, shift) if frozen else (image, weight, shift))]
    output = crossd_conv2d(image, weight, shift, padding=1)
    with profile() as profiler:
        torch.autograd.grad(output.sum(), wanted)
    choice.set_method(key, None)
    names = [event.name for event in profiler.events() if event.name.startswith("crossd_ops::fourier_shift")]
    assert names == ["crossd_ops::fourier_shift"] * (not frozen) + ["crossd_ops::fourier_shift_backward"]
