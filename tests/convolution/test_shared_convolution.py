"""The convolution that shifts what pixels see, and takes the weight as it is for all samples: wherever it is chosen.

test_shared_columns.py runs the tests of values again, where tensors go the way of GPUs: there of odd sizes alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from crossd_ops import crossd_conv2d, crossd_conv3d, sample_conv2d, use_backend
from crossd_ops.tuning import choice

pytestmark = pytest.mark.usefixtures("compiled_library")

ODD_ALONE = os.environ.get("CROSSD_CONVOLUTION_BRANCH") == "gpu"
_set: list[tuple[int, ...]] = []


@pytest.fixture(autouse=True)
def _without_trace() -> Iterator[None]:
    yield
    while _set:
        choice.set_method(_set.pop(), None)


def arguments_of(
    image: tuple[int, ...],
    weight: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    place: tuple[int, ...] = (1, 1, 1, 1),
) -> list[Tensor]:
    """Input, weight, shift and bias, which all want a gradient, of a problem that is shared from now on."""
    generator = torch.Generator().manual_seed(0)
    shapes = image, weight, (image[0], 3), weight[:1]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    tensors[2] = tensors[2].to(torch.float64 if dtype is torch.float64 else torch.float32)
    if ODD_ALONE and any(size % 2 == 0 for size in weight[2:]):
        pytest.skip("a GPU has no shared columns of even sizes")
    for backward in (False, True):
        found = choice.explain(*tensors[:3], place, backward=backward)
        _set.append(found.key)
        choice.set_method(found.key, "shared")
        assert choice.explain(*tensors[:3], place, backward=backward)[1:3] == ("shared", "measured")
    return [tensor.requires_grad_() for tensor in tensors]


def results(convolve: Callable[..., Tensor], tensors: list[Tensor], **options: object) -> list[Tensor]:
    """Output and gradients of all that want one."""
    output = convolve(*tensors, **options)
    sought = [tensor for tensor in tensors if tensor.requires_grad]
    grad = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, sought, grad)]


def assert_close(got: list[Tensor], wanted: list[Tensor], digits: float) -> None:
    for result, expected in zip(got, wanted, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(result.double(), expected.double(), rtol=0, atol=digits * scale)


def as_published(convolve: Callable[..., Tensor], tensors: list[Tensor], **options: object) -> list[Tensor]:
    """The same in float64, by torch.fft."""
    exact = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]
    with use_backend("reference"):
        return results(convolve, exact, **options)


@pytest.mark.parametrize(
    "kernel", [(3, 3, 3), (5, 5, 5), (2, 2, 2), (4, 4, 4), (3, 4, 2), (1, 3, 5), (1, 1, 1)], ids=str
)
@pytest.mark.parametrize("dim", [None, 0, 1, 2])
def test_every_kernel(kernel: tuple[int, int, int], dim: int | None) -> None:
    """Odd and even, of volumes and of a slice along each axis, the first and the last one too."""
    sizes = (4, 3, 5) if dim is None else (4, 5)
    for index in (None,) if dim is None else (0, kernel[dim] - 1):
        options = {"padding": 2} | ({} if dim is None else {"dim": dim, "index": index})
        place = (1, 2, 1, 1) if index is None else (1, 2, 1, 1, dim, index)
        tensors = arguments_of((2, 3, *sizes), (5, 3, *kernel), place=place)
        convolve = crossd_conv3d if dim is None else crossd_conv2d
        assert_close(results(convolve, tensors, **options), as_published(convolve, tensors, **options), 1e-11)


# In chunks of 2427 rows: a sample and more, in the midst of one, and the last one shorter.
@pytest.mark.parametrize("axes, sizes", [(3, (10, 11, 9)), (2, (30, 33))])
@pytest.mark.parametrize("groups", [1, 2])
def test_chunks_of_pixels(axes: int, sizes: tuple[int, ...], groups: int) -> None:
    place = (1, 1, 1, groups)
    tensors = arguments_of((3, 64, *sizes), (4, 64 // groups, 3, 3, 3), place=place)
    convolve = crossd_conv3d if axes == 3 else crossd_conv2d
    options = {"padding": 1, "groups": groups}
    got = results(convolve, tensors, **options)
    assert_close(got, as_published(convolve, tensors, **options), 1e-11)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            once, again = (results(convolve, tensors, **options) for _ in range(2))
            assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
            assert_close(once, got, 1e-13)  # the library may share out a product's sums
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype, digits", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [3, 4])
def test_every_type(dtype: torch.dtype, digits: float, channels_last: bool, size: int) -> None:
    tensors = arguments_of((2, 24, 2, 3, 2), (16, 24, size, size, size), dtype)
    if channels_last:
        tensors[0] = tensors[0].detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        found = choice.explain(*tensors[:3], (1, 1, 1, 1), backward=False)
        _set.append(found.key)
        choice.set_method(found.key, "shared")
    got = results(crossd_conv3d, tensors, padding=1)
    assert [tensor.dtype for tensor in got] == [dtype, *(tensor.dtype for tensor in tensors)]
    if channels_last:
        assert got[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert_close(got, as_published(crossd_conv3d, tensors, padding=1), digits)


@pytest.mark.parametrize("wanted", ["input", "weight", "shift", "weight and shift", "input and shift"])
def test_some_gradients_alone(wanted: str) -> None:
    tensors = arguments_of((2, 4, 3, 2, 3), (6, 4, 3, 3, 3))
    for name, tensor in zip(("input", "weight", "shift", "bias"), tensors, strict=True):
        tensor.requires_grad_(name in wanted)
    assert_close(results(crossd_conv3d, tensors, padding=1), as_published(crossd_conv3d, tensors, padding=1), 1e-11)


@pytest.mark.parametrize("axes", [2, 3])
def test_derivatives_of_first_and_second_order(axes: int) -> None:
    tensors = arguments_of((2, 2, *(2, 3, 2)[:axes]), (3, 2, 3, 3, 2))
    convolve = crossd_conv3d if axes == 3 else crossd_conv2d
    assert torch.autograd.gradcheck(lambda *a: convolve(*a, padding=1), tensors)
    assert torch.autograd.gradgradcheck(lambda *a: convolve(*a, padding=1), tensors, fast_mode=True)


def test_a_shift_that_is_no_number_spoils_its_sample_alone() -> None:
    input, weight, shift, bias = (tensor.detach() for tensor in arguments_of((3, 4, 3, 3, 3), (6, 4, 3, 3, 3)))
    expected = crossd_conv3d(input, weight, shift, bias, padding=1)
    shift[1, 2] = torch.nan
    got = crossd_conv3d(input, weight, shift, bias, padding=1)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[::2], expected[::2])


def test_few_pixels_of_many_channels_are_shared() -> None:
    def chosen(samples: int, channels: int, *sizes: int) -> list[str]:
        with torch.device("meta"):
            tensors = torch.empty(samples, channels, *sizes), torch.empty(channels, channels, 3, 3, 3)
            shift = torch.empty(samples, 3)
        both = [choice.explain(*tensors, shift, (1, 1, 1, 1), backward=backward) for backward in (False, True)]
        return [found.method for found in both]

    assert chosen(4, 512, 4, 4, 4) == chosen(4, 128, 2, 2, 2) == chosen(4, 256, 2, 2) == ["shared"] * 2
    assert "shared" not in chosen(4, 64, 8, 8, 8) + chosen(4, 512, 7, 7) + chosen(4, 8, 2, 2, 2)


def test_costs_are_those_of_the_whole_weight() -> None:
    samples, channels, pixels = 2, 8, 25
    tensors = torch.ones(samples, channels, 5, 5), torch.ones(channels, channels, 3, 3, 3), torch.ones(samples, 3)
    cost = choice.explain(*tensors, (1, 1, 1, 1), backward=False).costs["shared"]
    assert cost.multiply_adds == samples * pixels * channels**2 * 27
    of_pixels = 2 * samples * pixels * channels
    assert cost.bytes == 4 * (of_pixels + channels**2 * 27 + of_pixels * (9 + 27))


def test_kernels_that_are_given_are_not_shared() -> None:
    """Where the layer of the same sizes is, they go by the rules."""
    input, *_ = arguments_of((3, 8, 6, 6), (8, 8, 3, 3, 3), torch.float32)
    given = torch.randn(3, 8, 8, 3, 3, requires_grad=True)
    for backward in (False, True):
        found = choice.explain(input, given, None, (1, 1, 1, 1), backward=backward)
        assert "shared" not in found.possible and found.method != "shared" and found.why != "measured"
    output = sample_conv2d(input, given, padding=1)
    wanted = torch.cat([torch.conv2d(x[None], w, padding=1) for x, w in zip(input, given, strict=True)])
    torch.testing.assert_close(output, wanted, rtol=0, atol=1e-4)
    torch.autograd.grad(output.sum(), [input, given])
