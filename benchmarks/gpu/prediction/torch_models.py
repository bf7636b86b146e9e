"""Models of torch's operators: how many kernels, and what each moves and multiplies."""

from __future__ import annotations

import math
from collections.abc import Iterator

from benchmarks.gpu.prediction.assumptions import CHUNK_ELEMENTS, CHUNKS_OF_LAUNCH, LAYOUT_COPIES, TENSORS_OF_LAUNCH
from benchmarks.gpu.prediction.models import LAUNCHES_NOTHING, LibraryLaunch, model
from benchmarks.gpu.prediction.trace import Array, Call


def _named(*names: str) -> tuple[str, ...]:
    return tuple(f"aten.{name}" for name in names)


# Memory without values, and tensors that are only described anew.
LAUNCHES_NOTHING |= {
    *_named("empty", "empty_like", "new_empty", "new_empty_strided", "as_strided_", "_unsafe_view", "promote_types"),
    *_named("unsafe_split_with_sizes"),
}
# One kernel that reads each argument once and writes each result once; in place, the result is an argument too.
ELEMENTWISE = _named(
    "_to_copy", "add", "add_", "cat", "clone", "copy_", "cos", "div", "eq", "exp", "masked_fill_", "mul", "neg", "relu",
    "relu_", "roll", "rsub", "sin", "stack", "sub", "tanh", "tanh_backward", "threshold_backward",
)  # fmt: skip
FILLING = _named("arange", "fft_fftfreq", "ones_like", "zeros_like", "new_zeros", "zeros", "ones", "zero_", "fill_")
REDUCTIONS = _named("sum", "mean", "linalg_vector_norm", "_softmax", "_log_softmax")
FUSED = "compiler.fused"  # of several, see compiled.py
_HALF = ("bfloat16", "float16")


def _bytes(arrays: list[Array] | tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays)


@model(*ELEMENTWISE)
def elementwise(call: Call) -> Iterator[LibraryLaunch]:
    read = call.arrays[1:] if call.operator == "aten.copy_" else call.arrays  # what is overwritten is not read
    if _bytes(call.results):
        yield LibraryLaunch(call.operator, _bytes(read) + _bytes(call.results))


@model(*FILLING)
def filling(call: Call) -> Iterator[LibraryLaunch]:
    if _bytes(call.results):
        yield LibraryLaunch(call.operator, _bytes(call.results))


@model(*REDUCTIONS, FUSED, "aten._softmax_backward_data", "aten._log_softmax_backward_data")
def reduction(call: Call) -> Iterator[LibraryLaunch]:
    yield LibraryLaunch(call.operator, _bytes(call.arrays) + _bytes(call.results))


@model("aten.select_backward", "aten.slice_backward", "aten.constant_pad_nd", "aten.eye")
def into_zeros(call: Call) -> Iterator[LibraryLaunch]:
    """Zeros, then what is not zero."""
    yield LibraryLaunch(f"{call.operator}, zeros", _bytes(call.results))
    yield LibraryLaunch(f"{call.operator}, values", 2 * _bytes(call.arrays) or _bytes(call.results))


@model("aten.nll_loss_forward", "aten.nll_loss2d_forward")
def loss(call: Call) -> Iterator[LibraryLaunch]:
    """Reads one score of each sample, in a sector of its own."""
    yield LibraryLaunch(call.operator, 32 * call["target"].elements + call["target"].bytes)


@model("aten.nll_loss_backward", "aten.nll_loss2d_backward")
def loss_backward(call: Call) -> Iterator[LibraryLaunch]:
    yield LibraryLaunch(f"{call.operator}, zeros", _bytes(call.results))
    yield LibraryLaunch(f"{call.operator}, values", 32 * call["target"].elements + call["target"].bytes)


@model("aten.max_pool2d_with_indices", "aten.max_pool2d_with_indices_backward")
def pooling(call: Call) -> Iterator[LibraryLaunch]:
    read = [array for name, array in call.arguments.items() if isinstance(array, Array)]
    if call.operator.endswith("indices_backward"):
        read.remove(call["self"])  # for its sizes alone
    yield LibraryLaunch(call.operator, _bytes(read) + _bytes(call.results))


@model("aten.native_batch_norm", "aten._native_batch_norm_legit")
def batch_norm(call: Call) -> Iterator[LibraryLaunch]:
    """Statistics of the batch, then values by them: two kernels of the map, and small ones that are left out."""
    moved = call["input"].bytes
    if call["training"]:
        yield LibraryLaunch(f"{call.operator}, statistics", moved)
    yield LibraryLaunch(f"{call.operator}, values", moved + call.results[0].bytes)


@model("aten.native_batch_norm_backward")
def batch_norm_backward(call: Call) -> Iterator[LibraryLaunch]:
    read = call["input"].bytes + call["grad_out"].bytes
    yield LibraryLaunch(f"{call.operator}, sums", read)
    if call["output_mask"][0]:
        yield LibraryLaunch(f"{call.operator}, values", read + call.results[0].bytes)


def unit_of(dtype: str, *, convolution: bool) -> str:
    """What does the multiply-adds; torch lets convolutions of float32 run as TF32, products only where asked."""
    if dtype in _HALF:
        return "bfloat16"
    return "tf32" if dtype == "float32" and convolution else dtype


@model("aten.mm", "aten.bmm", "aten.addmm")
def product(call: Call) -> Iterator[LibraryLaunch]:
    left, out = call["mat1" if call.operator == "aten.addmm" else "self"], call.results[0]
    work = math.prod(out.sizes) * left.sizes[-1]
    read = [array for name, array in call.arguments.items() if isinstance(array, Array) and name != "out"]
    unit = unit_of(left.dtype, convolution=False)
    yield LibraryLaunch(call.operator, _bytes(read) + out.bytes, work, unit)


def _layout_copies(name: str, unit: str, arrays: dict[str, Array]) -> Iterator[LibraryLaunch]:
    """Of activations that are not channels-last, to and from it, for tensor cores."""
    for what, array in arrays.items():
        if unit in ("bfloat16", "tf32") and len(array.sizes) > 3 and not array.channels_last:
            for _ in range(int(LAYOUT_COPIES.value)):
                yield LibraryLaunch(f"{name}, layout of {what}", 2 * array.bytes)


@model("aten.convolution")
def convolution(call: Call) -> Iterator[LibraryLaunch]:
    input, weight, out = call["input"], call["weight"], call.results[0]
    unit = unit_of(input.dtype, convolution=True)
    yield from _layout_copies(call.operator, unit, {"input": input, "output": out})
    work = math.prod(out.sizes) * math.prod(weight.sizes[1:])
    moved = _bytes([input, weight, out])
    yield LibraryLaunch(_of_groups(call, "product"), moved, work, unit, grouped=call["groups"] > 1)
    if call["bias"] is not None:
        yield LibraryLaunch(f"{call.operator}, bias", 2 * out.bytes)


@model("aten.convolution_backward")
def convolution_backward(call: Call) -> Iterator[LibraryLaunch]:
    grad, input, weight = call["grad_output"], call["input"], call["weight"]
    unit, grouped = unit_of(input.dtype, convolution=True), call["groups"] > 1
    need_input, need_weight, need_bias = call["output_mask"]
    work, moved = math.prod(grad.sizes) * math.prod(weight.sizes[1:]), _bytes([grad, input, weight])
    copied = {"grad": grad} | ({"input": input} if need_weight else {})
    yield from _layout_copies(call.operator, unit, copied)
    if need_input:
        yield LibraryLaunch(_of_groups(call, "gradient of input"), moved, work, unit, grouped)
        yield from _layout_copies(call.operator, unit, {"gradient of input": input})
    if need_weight:
        yield LibraryLaunch(_of_groups(call, "gradient of weight"), moved, work, unit, grouped)
    if need_bias:
        yield LibraryLaunch(f"{call.operator}, gradient of bias", grad.bytes)


def _of_groups(call: Call, what: str) -> str:
    groups = f", {call['groups']} groups" if call["groups"] > 1 else ""
    return f"{call.operator}, {what}{groups}"


@model("aten.col2im", "crossd_prediction.image_to_columns", "crossd_prediction.columns_to_image")
def columns(call: Call) -> Iterator[LibraryLaunch]:
    """One kernel for a batch, torch's or ours, each array once: what must come from memory. The meter has seen ours ask
    caches for more: for a pixel once for each element of a kernel, for columns up to 1.6 times (kernel_traffic.json).
    """
    yield LibraryLaunch(call.operator, _bytes(call.arrays) + _bytes(call.results))


@model("aten._fft_c2c", "aten._fft_r2c", "aten._fft_c2r")
def transform(call: Call) -> Iterator[LibraryLaunch]:
    """One pass, however many axes: the least that cuFFT can take."""
    yield LibraryLaunch(call.operator, _bytes(call.arrays) + _bytes(call.results))


@model("aten._fused_adamw_")
def adamw(call: Call) -> Iterator[LibraryLaunch]:
    """Parameters and both moments read and written, gradients read: in chunks, so many to a launch."""
    lists = [call[name] for name in ("self", "grads", "exp_avgs", "exp_avg_sqs")]
    moved = 2 * sum(map(_bytes, lists)) - _bytes(lists[1])
    chunks = sum(math.ceil(array.elements / CHUNK_ELEMENTS.value) for array in lists[0])
    count = max(chunks / CHUNKS_OF_LAUNCH.value, len(lists[0]) / TENSORS_OF_LAUNCH.value)
    yield from _in_launches(call.operator, moved, math.ceil(count))


@model("aten._foreach_add_")
def foreach(call: Call) -> Iterator[LibraryLaunch]:
    """Of small tensors, as the counts of an optimizer's steps are."""
    tensors = call["self"]
    yield from _in_launches(call.operator, 2 * _bytes(tensors), math.ceil(len(tensors) / 110))


def _in_launches(name: str, moved: int, count: int) -> Iterator[LibraryLaunch]:
    yield from (LibraryLaunch(name, moved // count) for _ in range(count))
