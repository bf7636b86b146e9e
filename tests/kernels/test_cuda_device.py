"""The shift on a GPU against its float64 definition: sizes, types, layouts, derivatives, streams, graphs, huge ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cuda_device import (  # noqa: F401
    DEVICE,
    DTYPES,
    TOLERANCES,
    assert_near,
    compare,
    full_precision,
    named,
    needs_device,
    only_cuda,
    values_and_gradients,
    weight_and_shift,
)
from torch import Tensor

import crossd_ops
from benchmarks.gpu.kernel_calls import CHANNELS
from crossd_ops import reference
from crossd_ops.operators.rotation_head import rotation_head

pytestmark = [needs_device, pytest.mark.usefixtures("full_precision")]


@pytest.mark.parametrize("size", range(1, 16))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=named)
def test_slice_of_every_size(size: int, dtype: torch.dtype) -> None:
    weight, shift = weight_and_shift(6, 5, size, size, size, dtype=dtype)
    compare(crossd_ops.fourier_shift_slice, reference.fourier_shift_slice, weight, shift, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 5, 5), (7, 7, 7), (2, 3, 5), (4, 6, 3)], ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(("dim", "index"), [(0, None), (1, 0), (2, -1)])
def test_slices_of_every_type(
    dtype: torch.dtype, sizes: tuple[int, int, int], channels: tuple[int, int], dim: int, index: int | None
) -> None:
    weight, shift = weight_and_shift(*channels, *sizes, dtype=dtype)

    def function(weight: Tensor, shift: Tensor) -> Tensor:
        return crossd_ops.fourier_shift_slice(weight, shift, dim=dim, index=index)

    def definition(weight: Tensor, shift: Tensor) -> Tensor:
        return reference.fourier_shift_slice(weight, shift, dim=dim, index=index)

    compare(function, definition, weight, shift, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 5, 5), (7, 7, 7), (4, 4, 3)], ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_whole_weights(dtype: torch.dtype, sizes: tuple[int, int, int], channels: tuple[int, int]) -> None:
    weight, shift = weight_and_shift(*channels, *sizes, dtype=dtype)
    compare(crossd_ops.fourier_shift, reference.fourier_shift, weight, shift, dtype=dtype)


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float16, torch.float64], ids=named)
@pytest.mark.parametrize("size", [3, 5, 7, 4])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_result_and_gradient_of_another_type(out: torch.dtype, size: int, channels: tuple[int, int]) -> None:
    weight, shift = weight_and_shift(*channels, size, size, size)

    def function(weight: Tensor, shift: Tensor) -> Tensor:
        result = crossd_ops.fourier_shift_slice(weight, shift, dtype=out)
        assert result.dtype is out
        return result

    tolerance_of = torch.float32 if out is torch.float64 else out  # the sums are those of the weight's type
    compare(function, reference.fourier_shift_slice, weight, shift, dtype=tolerance_of)


def misaligned(values: Tensor) -> Tensor:
    beside = torch.empty(values.numel() + 1, device=values.device, dtype=values.dtype)
    return beside[1:].view(values.shape).copy_(values)


def layouts(weight: Tensor) -> dict[str, Tensor]:
    """The same values in other orders of the memory."""
    spread = torch.zeros(*weight.shape[:-1], 2 * weight.shape[-1], device=weight.device, dtype=weight.dtype)
    spread[..., ::2] = weight
    return {
        "contiguous": weight,
        "channels_last": weight.contiguous(memory_format=torch.channels_last_3d),
        "transposed": weight.transpose(0, 1).contiguous().transpose(0, 1),
        "every second": spread[..., ::2],
        "misaligned": misaligned(weight),
    }


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda values: values,
    "of one sample": lambda values: values[:1].expand_as(values),
    "misaligned": misaligned,
    "tap-major": lambda values: values.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2),
    "of no usual order": lambda values: values.permute(2, 1, 0, 4, 3).contiguous().permute(2, 1, 0, 4, 3),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "every second", "misaligned"])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=named)
@pytest.mark.parametrize("size", [3, 5, 7, 4])
def test_layouts_of_weight_and_gradient(layout: str, gradient: str, dtype: torch.dtype, size: int) -> None:
    weight, shift = weight_and_shift(40, 4, size, size, size, dtype=dtype)
    placed = layouts(weight.to(DEVICE))[layout]
    grad = GRADIENTS[gradient](torch.randn(5, 40, 4, size, size).to(DEVICE, dtype))
    results = values_and_gradients(crossd_ops.fourier_shift_slice, placed, shift.to(DEVICE), grad=grad)
    expected = values_and_gradients(reference.fourier_shift_slice, weight.double(), shift.double(), grad=grad)
    for result, wanted in zip(results, expected, strict=True):
        assert_near(result, wanted, TOLERANCES[dtype])


@pytest.mark.parametrize("sizes", [(0, 3), (4, 0)], ids=str)
def test_nothing_to_do(sizes: tuple[int, int]) -> None:
    samples, channels = sizes
    weight, shift = weight_and_shift(2, channels, 3, 3, 3, samples=samples)
    out, *gradients = values_and_gradients(crossd_ops.fourier_shift_slice, weight.to(DEVICE), shift.to(DEVICE))
    assert out.shape == (samples, 2, channels, 3, 3)
    assert all(not gradient.any() for gradient in gradients)


def test_nan_stays_in_its_sample() -> None:
    weight, shift = weight_and_shift(8, 4, 3, 3, 3)
    shift[1, 2], shift[3, 0] = float("nan"), float("inf")
    result = crossd_ops.fourier_shift_slice(weight.to(DEVICE), shift.to(DEVICE)).cpu()
    assert result[[1, 3]].isnan().all()
    assert result[[0, 2, 4]].isfinite().all()


@pytest.mark.parametrize("size", [3, 4])
def test_second_derivatives(size: int) -> None:
    weight, shift = (tensor.to(DEVICE, torch.float64) for tensor in weight_and_shift(2, 2, size, size, size, samples=2))
    inputs = weight.requires_grad_(), shift.requires_grad_()
    assert torch.autograd.gradgradcheck(crossd_ops.fourier_shift_slice, inputs)


def test_results_are_the_same_bits_each_time() -> None:
    weight, shift = (tensor.to(DEVICE) for tensor in weight_and_shift(64, 33, 3, 3, 3, samples=16))
    first, *others = (values_and_gradients(crossd_ops.fourier_shift_slice, weight, shift) for _ in range(10))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@only_cuda
def test_a_side_stream_has_the_work_of_its_own() -> None:
    """Inputs that a busy side stream has yet to write: only kernels of the same stream see them."""
    weight, shift = (tensor.to(DEVICE) for tensor in weight_and_shift(64, 64, 3, 3, 3))
    scores = torch.randn(4, 4, 64, 64, device=DEVICE)
    grad, grad_shift = torch.randn(5, 64, 64, 3, 3, device=DEVICE), torch.randn(4, 3, device=DEVICE)

    def work(weight: Tensor, shift: Tensor, scores: Tensor) -> list[Tensor]:
        of_slice = values_and_gradients(crossd_ops.fourier_shift_slice, weight, shift, grad=grad)
        return [*of_slice, *values_and_gradients(rotation_head, scores, grad=grad_shift)]

    expected = work(weight, shift, scores)
    late = torch.zeros_like(weight), torch.zeros_like(shift), torch.zeros_like(scores)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(1_000_000_000)  # cycles: half a second
        for target, source in zip(late, (weight, shift, scores), strict=True):
            target.copy_(source)
        results = work(*late)
        assert not stream.query(), "the side stream was waited for, so that the order shows nothing"
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))


@only_cuda
def test_a_graph_repeats_every_operator() -> None:
    weight, shift = (tensor.to(DEVICE) for tensor in weight_and_shift(16, 16, 3, 3, 3))
    scores = torch.randn(4, 4, 40, 60, device=DEVICE)
    grad, grad_shift = torch.randn(5, 16, 16, 3, 3, device=DEVICE), torch.randn(4, 3, device=DEVICE)

    def work() -> list[Tensor]:
        of_slice = values_and_gradients(crossd_ops.fourier_shift_slice, weight, shift, grad=grad)
        return [*of_slice, *values_and_gradients(rotation_head, scores, grad=grad_shift)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for tensor in (weight, shift, scores):
        tensor.copy_(torch.randn(tensor.shape))
    graph.replay()
    for result, wanted in zip(captured, work(), strict=True):
        assert torch.equal(result, wanted)


@only_cuda
def test_more_than_2_to_the_31_elements() -> None:
    samples, channels = 1024, 512  # 1024 x 512 x 512 x 9 = 2.4e9 elements of 2 bytes
    needed = 2 * (samples * channels**2 * 9 * 2)
    if torch.cuda.mem_get_info()[0] < 1.3 * needed:
        pytest.skip(f"needs {1.3 * needed / 2**30:.0f} GiB of free memory")
    weight = torch.randn(channels, channels, 3, 3, 3, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    shift = torch.randn(samples, 3, device=DEVICE).requires_grad_()
    result = crossd_ops.fourier_shift_slice(weight, shift)
    assert result.numel() > 2**31
    for sample in (0, samples // 2, samples - 1):
        expected = reference.fourier_shift_slice(weight[-2:].double().cpu(), shift[sample : sample + 1].double().cpu())
        assert_near(result[sample : sample + 1, -2:], expected, TOLERANCES[torch.bfloat16])
    # A gradient of the last samples alone must arrive: what an index of 32 bits would miss.
    grad = torch.zeros_like(result)
    grad[-2:] = 1
    grad_weight, grad_shift = torch.autograd.grad(result, (weight, shift), grad)
    del result, grad
    assert not grad_shift[:-2].any()
    few = weight.detach()[:3].requires_grad_()
    last = shift.detach()[-2:].requires_grad_()
    wanted = torch.autograd.grad(crossd_ops.fourier_shift_slice(few, last).sum(), few)[0]
    assert_near(grad_weight[:3], wanted, TOLERANCES[torch.bfloat16])


@only_cuda
def test_a_second_gpu() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    weight, shift = weight_and_shift(32, 8, 3, 3, 3)
    scores = torch.randn(3, 4, 30, 40)
    first = values_and_gradients(crossd_ops.fourier_shift_slice, weight.to("cuda:0"), shift.to("cuda:0"))
    second = values_and_gradients(crossd_ops.fourier_shift_slice, weight.to("cuda:1"), shift.to("cuda:1"))
    first += values_and_gradients(rotation_head, scores.to("cuda:0"))
    second += values_and_gradients(rotation_head, scores.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for a, b in zip(first, second, strict=True):
        assert b.device == torch.device("cuda", 1)
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="expected the device of weight"):
        crossd_ops.fourier_shift_slice(weight.to("cuda:1"), shift.to("cuda:0"))
