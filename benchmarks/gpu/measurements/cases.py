"""What the operators are measured on: the convolutions of ResNet-18, which hold those of ResNet-50 above 1x1."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossd_ops
from benchmarks.convolution_methods import LAYERS
from benchmarks.gpu.measurements.alternatives import by_expansion, compiled, matrix_slice
from benchmarks.gpu.measurements.case import Case, image_of, name_of
from benchmarks.gpu.measurements.given_kernels import sample_conv2d, sample_conv3d
from benchmarks.gpu.measurements.measure import network_layout
from benchmarks.operator_cases import RESNET18_LAYERS, OperatorCase, make_tensors
from crossd_ops import reference
from crossd_ops.operators.head import predict_shift
from crossd_ops.operators.rotation_head import composite, rotation_head

_BATCH = 32
_STEM_CHANNELS = 3  # of an image, which has no gradient
_MAPS = ((_BATCH, 112, 112), (_BATCH, 56, 56), (_BATCH, 28, 28), (_BATCH, 7, 7))
# Compiling takes seconds for each: a wide layer, the usual one and the stem stand for the rest.
_COMPILED_LAYERS = ((64, 64, 3), (512, 512, 3), (64, 3, 7))
_COMPILED_MAP = (_BATCH, 56, 56)
_DRY_RUN_LAYERS, _DRY_RUN_MAP = ((4, 3, 3),), (2, 5, 6)
_DRY_RUN_CONVOLUTIONS = ((_STEM_CHANNELS, 4, 3, 2, 9), (4, 6, 3, 1, 5))


def all_cases(device: torch.device, *, dry_run: bool) -> Iterator[partial[Case]]:
    """Each case unbuilt, the most important first: its tensors are made when it is called."""
    dtypes = [torch.float32, torch.bfloat16]
    layers = _DRY_RUN_LAYERS if dry_run else RESNET18_LAYERS
    slices = [(layer, dtype) for dtype in dtypes for layer in layers]
    if not dry_run:
        slices += [((512, 512, 3), torch.float16), ((256, 256, 3), torch.float64)]
    yield from (partial(_slice, layer, dtype, device, dry_run) for layer, dtype in slices)
    maps = [_DRY_RUN_MAP] if dry_run else _MAPS
    yield from (partial(_head_map, size, dtype, device) for dtype in dtypes for size in maps)
    convolutions = _DRY_RUN_CONVOLUTIONS if dry_run else LAYERS
    yield from (partial(_head, layer, dtype, device, dry_run) for dtype in dtypes for layer in convolutions)
    yield from (partial(_conv2d, layer, dtype, device, dry_run) for dtype in dtypes for layer in convolutions)
    yield partial(_volume, device, dry_run)
    yield partial(_conv3d, device, dry_run)
    yield partial(_rotation, device)
    yield from (partial(sample_conv2d, layer, dtype, device, dry_run) for dtype in dtypes for layer in convolutions)
    yield partial(sample_conv3d, device, dry_run)
    for convolve2d, convolve3d in ((_conv2d, _conv3d), (sample_conv2d, sample_conv3d)):
        for dtype, layer in itertools.product(dtypes, convolutions):
            yield partial(convolve2d, layer, dtype, device, dry_run, cudnn_benchmark=True)
        yield partial(convolve3d, device, dry_run, cudnn_benchmark=True)


def compiled_cases(device: torch.device, *, dry_run: bool) -> Iterator[partial[Case]]:
    """Cases that compare with what torch.compile makes of the expansion."""
    layers, size = (_DRY_RUN_LAYERS, _DRY_RUN_MAP) if dry_run else (_COMPILED_LAYERS, _COMPILED_MAP)
    yield from (
        partial(_slice, layer, torch.bfloat16, device, dry_run, compiler=_compiler(dry_run)) for layer in layers
    )
    yield partial(_head_map, size, torch.bfloat16, device, compiler=_compiler(dry_run))


def _slice(
    layer: tuple[int, int, int], dtype: torch.dtype, device: torch.device, dry_run: bool, compiler: str | None = None
) -> Case:
    batch = 2 if dry_run else _BATCH
    case = OperatorCase(*layer, batch, dtype)
    tensors = make_tensors(case, device, seed=0)
    weight, shift = tensors.weight, tensors.shift
    if dtype is torch.float64:
        weight, shift = (tensor.detach().double().requires_grad_() for tensor in (weight, shift))
    expansion = reference.fourier_shift_slice
    functions: dict[str, Callable[..., Tensor]] = {"fused": crossd_ops.fourier_shift_slice}
    if compiler:
        functions["compiled expansion"] = compiled(expansion, compiler)
    else:
        functions |= {"expansion": expansion, "matrix": matrix_slice}
    elements = weight.numel() * weight.element_size()
    forward = elements + case.out_bytes
    # Axis by axis: K products for each of K^3, twice more for the two axes that keep K values. Backward: the same
    # three steps back for the weight; for the shift two more along with the derivative of the first, and three sums.
    pairs, size = batch * case.out_channels * case.in_channels, case.kernel
    return Case(
        "fourier_shift_slice",
        case.label,
        name_of(dtype),
        (weight, shift),
        {name: partial(function, weight, shift, dtype=dtype) for name, function in functions.items()},
        {"forward": forward, "forward_backward": forward + case.out_bytes + 2 * elements + 12 * batch},
        {"forward": 3 * pairs * size**3, "forward_backward": pairs * (11 * size**3 + 3 * size**2)},
    )


def _head_map(
    size: tuple[int, int, int], dtype: torch.dtype, device: torch.device, compiler: str | None = None
) -> Case:
    batch, height, width = size
    scores = image_of(batch, 4, (height, width), dtype, device).requires_grad_()
    expansion = partial(composite, rotation="linear")
    other = {"compiled expansion": compiled(expansion, compiler)} if compiler else {"expansion": expansion}
    functions = {"fused": rotation_head, **other}
    total = scores.numel() * scores.element_size()
    return Case(
        "rotation_head",
        f"{batch}x4x{height}x{width}",
        name_of(dtype),
        (scores,),
        {name: partial(function, scores) for name, function in functions.items()},
        {"forward": total, "forward_backward": 3 * total},
    )


def _head(layer: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device, dry_run: bool) -> Case:
    channels, _, _, _, pixels = layer
    layers = nn.Sequential(nn.Conv2d(channels, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).to(device)
    image = image_of(2 if dry_run else _BATCH, channels, (pixels, pixels), dtype, device)
    image.requires_grad_(channels != _STEM_CHANNELS)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype is not torch.float32)

    def fused() -> Tensor:
        with autocast():
            return predict_shift(image, layers, "linear")

    def expansion() -> Tensor:
        with autocast():
            return composite(layers(image), "linear")

    total = image.numel() * image.element_size()
    return Case(
        "predict_shift",
        f"{len(image)}x{channels}x{pixels}x{pixels}",
        name_of(dtype),
        (*([image] if image.requires_grad else []), *layers.parameters()),
        {"fused": fused, "expansion": expansion},
        {"forward": total, "forward_backward": (3 if image.requires_grad else 2) * total},
    )


def _conv2d(
    layer: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    dry_run: bool,
    cudnn_benchmark: bool = False,
) -> Case:
    in_channels, out_channels, size, stride, pixels = layer
    batch = 2 if dry_run else _BATCH
    tensors = make_tensors(OperatorCase(out_channels, in_channels, size, batch, dtype), device, seed=0)
    weight = tensors.weight.detach().to(dtype).requires_grad_()
    image = image_of(batch, in_channels, (pixels, pixels), dtype, device)
    image.requires_grad_(in_channels != _STEM_CHANNELS)
    wanted = (image,) if image.requires_grad else ()
    plain_weight = weight.detach()[:, :, size // 2].clone(memory_format=network_layout(dtype)).requires_grad_()
    options = {"stride": stride, "padding": size // 2}
    cross = partial(crossd_ops.crossd_conv2d, image, weight, tensors.shift, **options)
    candidates = {
        "fused": cross,
        "expansion": by_expansion(cross),
        "plain": partial(F.conv2d, image, plain_weight, **options),
    }
    result = ((pixels + 2 * (size // 2) - size) // stride + 1) ** 2
    work = batch * out_channels * in_channels * size**2 * result
    return Case(
        "crossd_conv2d",
        f"{in_channels}->{out_channels} {size}x{size} @{pixels}",
        name_of(dtype),
        (*wanted, weight, tensors.shift),
        candidates,
        multiply_adds={"forward": work, "forward_backward": (2 + len(wanted)) * work},
        other_work={"plain": (*wanted, plain_weight)},
        cudnn_benchmark=cudnn_benchmark,
    )


def _volume(device: torch.device, dry_run: bool) -> Case:
    case = OperatorCase(4, 2, 3, 2) if dry_run else OperatorCase(128, 128, 3, 8)
    tensors = make_tensors(case, device, seed=0)
    weight, shift = tensors.weight, tensors.shift
    functions = {"fused": crossd_ops.fourier_shift, "expansion": reference.fourier_shift}
    forward = case.weight_bytes + case.kernel * case.out_bytes
    backward = 2 * case.weight_bytes + case.kernel * case.out_bytes + 12 * case.batch
    candidates = {name: partial(function, weight, shift) for name, function in functions.items()}
    floor = {"forward": forward, "forward_backward": forward + backward}
    return Case("fourier_shift", case.label, "float32", (weight, shift), candidates, floor)


def _conv3d(device: torch.device, dry_run: bool, cudnn_benchmark: bool = False) -> Case:
    batch, channels, pixels = (2, 3, 5) if dry_run else (4, 32, 32)
    tensors = make_tensors(OperatorCase(channels, channels, 3, batch), device, seed=0)
    image = torch.randn(batch, channels, *[pixels] * 3, device=device).requires_grad_()
    cross = partial(crossd_ops.crossd_conv3d, image, tensors.weight, tensors.shift, padding=1)
    candidates = {
        "fused": cross,
        "expansion": by_expansion(cross),
        "plain": partial(F.conv3d, image, tensors.weight, padding=1),
    }
    work = batch * channels**2 * 27 * pixels**3
    return Case(
        "crossd_conv3d",
        f"{channels}->{channels} 3^3 @{pixels}",
        "float32",
        (image, tensors.weight, tensors.shift),
        candidates,
        multiply_adds={"forward": work, "forward_backward": 3 * work},
        other_work={"plain": (image, tensors.weight)},
        cudnn_benchmark=cudnn_benchmark,
    )


def _rotation(device: torch.device) -> Case:
    axis = F.normalize(torch.randn(_BATCH, 3, device=device), dim=1).requires_grad_()
    angle = (torch.rand(_BATCH, device=device) * math.pi / 4).requires_grad_()
    functions = {"fused": crossd_ops.rotation_shift, "expansion": reference.rotation_shift}
    candidates = {name: partial(function, axis, angle) for name, function in functions.items()}
    return Case("rotation_shift", f"{_BATCH}x3", "float32", (axis, angle), candidates)


def _compiler(dry_run: bool) -> str:
    """A dry run spends no time on a compiler's code."""
    return "aot_eager" if dry_run else "inductor"
