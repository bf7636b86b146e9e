"""The operators in plain operations of torch, for tracers that follow no others.

torch.onnx.export: ONNX knows neither our operators nor complex numbers. torch.jit.trace: it records a Python autograd
Function as a call of Python, which cannot be saved, and one whose tensors come from outside ends the process; what it
records here computes, differentiates and loads anywhere, without this package.

Nothing here depends on the number of samples: an ONNX convolution has a fixed number of groups, so the convolution of
each sample with its own kernels, which elsewhere makes a group of each sample, is a matrix product here, over columns
that a convolution with kernels of a single 1 collects. Batch and image sizes may be dynamic.

`torch.export` does not come here: it keeps the operators of this package.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .checks import accumulate_dtype
from .context import jit_tracing, with_plain_sizes
from .plan import Geometry
from .torch_convolution import in_format, library_convolution, memory_format_of


def wants_plain_operations() -> bool:
    """Whether torch.jit.trace is tracing, or torch.onnx.export in its present form (dynamo=True)."""
    # The first question is cheap, and nearly always answers.
    return (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()) or jit_tracing()


def shift(weight: Tensor, shift: Tensor, dim: int, index: int | None, dtype: torch.dtype) -> Tensor:
    """`fourier_shift`, or its slice at `index` of axis `dim`: one real matrix M_b for each sample, times the weight.

        M_b[p, q] = 1/N sum_f cos(2 pi f . (p - s_b - q))   for elements p of the result and q of the weight,
    over the N frequencies f in fftfreq(Kd) x fftfreq(Kh) x fftfreq(Kw)
    """
    compute_dtype = accumulate_dtype(weight.dtype)
    out_channels, channels, *sizes = with_plain_sizes(weight.size)
    # Counted from the middle: smaller numbers, whose cosines are rounded less. Lists become constants of the graph.
    axes = [[element - size // 2 for element in range(size)] for size in sizes]
    elements = [*itertools.product(*axes)]
    kept = [element for element in elements if index is None or element[dim] == axes[dim][index]]
    frequencies = [[f if 2 * f < size else f - size for f in range(size)] for size in sizes]
    radians = [
        [2 * math.pi * f / size for f, size in zip(triple, sizes, strict=True)]
        for triple in itertools.product(*frequencies)
    ]
    to_phases = weight.new_tensor(radians, dtype=compute_dtype).mT
    phases = weight.new_tensor(elements, dtype=compute_dtype) @ to_phases
    moved = weight.new_tensor(kept, dtype=compute_dtype) @ to_phases - (shift.to(compute_dtype) @ to_phases)[:, None]
    matrix = (moved.cos() @ phases.cos().mT + moved.sin() @ phases.sin().mT) / len(radians)
    product = matrix.flatten(0, 1) @ weight.to(compute_dtype).reshape(out_channels * channels, -1).mT
    kernels = product.reshape(-1, len(kept), out_channels, channels).permute(0, 2, 3, 1)
    result_sizes = [size for axis, size in enumerate(sizes) if index is None or axis != dim]
    return kernels.reshape(-1, out_channels, channels, *result_sizes).to(dtype)


def convolve(input: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y_b = conv(x_b, kernels_b) + bias: (B, C * groups, ...), (B, O, C, ...), (O,) -> (B, O, ...).

    In the memory format of the input.
    """
    _, out_channels, group_channels, *sizes = with_plain_sizes(kernels.size)
    groups, elements = geometry.groups, math.prod(sizes)
    # One kernel for each of its elements, 1 there and 0 elsewhere: its result is the element's column.
    single_ones = torch.eye(elements, dtype=input.dtype, device=input.device).reshape(elements, 1, *sizes)
    columns = library_convolution(input.flatten(0, 1).unsqueeze(1), single_ones, None, geometry, groups=1)
    result_sizes = columns.shape[2:]
    columns = columns.reshape(-1, groups, group_channels * elements, _product(result_sizes))
    rows = kernels.reshape(-1, groups, out_channels // groups, group_channels * elements)
    output = (rows @ columns).reshape(-1, out_channels, *result_sizes)
    if bias is not None:
        output = output + bias.reshape(-1, *(1,) * len(sizes))
    return in_format(output, with_plain_sizes(memory_format_of, input))


def _product(sizes: torch.Size) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
