"""Products of columns, by the library or in tiles: csrc/convolution/methods/products.h."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.prediction.compositions.padding import in_whole
from benchmarks.gpu.prediction.compositions.stand_ins import own

_VECTOR = 4  # elements of float32
_NUMBERS = [1, 1], [0, 0], [1, 1], 1  # stride, padding, dilation, groups


def multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a b, each (n, ., .), of float32 that may be rounded, as by torch's default, in tiles."""
    if out.stride(2) != 1:
        multiply_into(out.mT, b.mT, a.mT)
    elif out.dtype is torch.float32:
        _in_tiles(out, a, b)
    else:
        torch.bmm(a, b, out=out)


def _in_tiles(out: Tensor, a: Tensor, b: Tensor) -> None:
    (count, rows, inner), columns = a.shape, b.shape[2]
    if columns % _VECTOR and rows % _VECTOR == 0:
        product = out.new_empty(count, columns, rows)
        _in_tiles(product, b.mT, a.mT)
        out.copy_(product.mT)
        return
    rows_of_a, rows_of_b, a_is_smaller = a.stride(2) == 1, b.stride(2) == 1, a.numel() <= b.numel()
    if not rows_of_a and not rows_of_b:
        rows_of_a, rows_of_b = a_is_smaller, not a_is_smaller
    elif rows_of_b and a_is_smaller and (inner if rows_of_a else rows) % _VECTOR:
        rows_of_a = not rows_of_a
    a, b = _in_rows(a if rows_of_a else a.mT), _in_rows(b if rows_of_b else b.mT)
    wide = in_whole(columns, _VECTOR)
    if rows_of_a:
        sizes, image, kernels = [count, wide, 1, rows], _image(_in_vectors(a)), _kernels(_in_vectors(b, rows=True))
        if rows_of_b:
            found = own.tiles_input_gradient(image, kernels, sizes, *_NUMBERS)
        else:
            found = own.convolve_tiles(image, kernels, None, sizes, 1)
        found = found[:, :, 0].mT
    else:
        sizes = [count, in_whole(rows, _VECTOR), wide, 1, 1]
        images = _image(_in_vectors(a)), _image(_in_vectors(b))
        found = own.tiles_kernels_gradient(*images, sizes, *_NUMBERS)[..., 0, 0]
    if found.shape != out.shape or not out.is_contiguous():
        out.copy_(found[:, : out.shape[1], : out.shape[2]])


def _in_rows(matrices: Tensor) -> Tensor:
    return matrices if matrices.stride(2) == 1 else matrices.contiguous()


def _in_vectors(matrices: Tensor, rows: bool = False) -> Tensor:
    """The matrices themselves, or a copy among zeros. rows: as kernels are read, without gaps."""
    count, height, width = matrices.shape
    sizes = [count, in_whole(height, _VECTOR) if rows else height, in_whole(width, _VECTOR)]
    if [*matrices.shape] == sizes and (matrices.is_contiguous() if rows else matrices.stride(1) % _VECTOR == 0):
        return matrices
    whole = matrices.new_empty(sizes) if [*matrices.shape] == sizes else matrices.new_zeros(sizes)
    whole[:, :height, :width].copy_(matrices)
    return whole


def _image(matrices: Tensor) -> Tensor:
    return matrices.mT.unsqueeze(2)


def _kernels(matrices: Tensor) -> Tensor:
    return matrices[..., None, None]
