"""The methods that have kernels of each sample: csrc/convolution/forward.h and backward.h."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.gpu.prediction.compositions.padding import Padding, is_padded
from benchmarks.gpu.prediction.compositions.problem import Problem, as_matrices
from benchmarks.gpu.prediction.compositions.products import multiply_into
from benchmarks.gpu.prediction.compositions.stand_ins import own
from crossd_ops.operators.torch_convolution import memory_format_of


def _stack_samples(tensor: Tensor) -> Tensor:
    """(B, C, ...) -> (1, B * C, ...)"""
    if len(tensor) != 1 and tensor.stride(0) != tensor.shape[1] * tensor.stride(1):
        tensor = tensor.contiguous()
    return tensor.flatten(0, 1)[None] if tensor.is_contiguous() else tensor.view(1, -1, *tensor.shape[2:])


def bias_of_method(bias: Tensor | None, input: Tensor, method: str) -> Tensor | None:
    """Tiles read one in float32, too."""
    return bias if bias is None or method == "tiles" else bias.to(input.dtype)


def _in_whole_vectors(image: Tensor) -> Tensor:
    """Channels-last: the tensor itself, or a copy."""
    if memory_format_of(image) is not torch.contiguous_format:
        return image
    return torch.empty(image.shape, dtype=image.dtype, memory_format=torch.channels_last).copy_(image)


def convolve(problem: Problem, method: str, kernels: Tensor, bias: Tensor | None) -> None:
    input, samples, groups = problem.input, problem.samples, problem.groups
    if method == "matrix":
        output = _multiply(problem, kernels, bias)
    elif method == "tiles" and is_padded(problem):
        output = Padding(problem).convolve(kernels, bias)
    elif method == "tiles":
        image, sizes = _in_whole_vectors(input), [samples, kernels.shape[1], *problem.result]
        output = own.convolve_tiles(image, kernels, bias, sizes, groups)
    elif samples == 1:
        output = problem.convolve(input, kernels[0], bias, groups)
    else:
        repeated = None
        if bias is not None:
            repeated = bias.new_empty(samples * len(bias))
            repeated.view(samples, -1).copy_(bias.expand(samples, -1))
        stacked = problem.convolve(_stack_samples(input), kernels.flatten(0, 1), repeated, samples * groups)
        output = stacked.contiguous().view(samples, -1, *problem.result)
    problem.in_format(output)


def _multiply(problem: Problem, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """y = w x; of channels-last images y^T = x^T w^T"""
    w = kernels.view(problem.samples * problem.groups, kernels.shape[1] // problem.groups, -1)
    pixels = math.prod(problem.result)
    transposed = problem.format is not torch.contiguous_format and problem.groups == 1
    products = w.new_empty(len(w), pixels, w.shape[1]) if transposed else w.new_empty(len(w), w.shape[1], pixels)
    for chunk in problem.chunks():
        columns, blocks = problem.columns(problem.input[chunk]), problem.blocks(chunk)
        if transposed:
            multiply_into(products[blocks], columns.mT, w[blocks].mT)
        else:
            multiply_into(products[blocks], w[blocks], columns)
        del columns  # before there are those of the next chunk
    if transposed:
        result = products.mT.unflatten(2, problem.result)
    else:
        result = products.view(problem.samples, -1, *problem.result)
    return result if bias is None else result - bias.view(-1, *[1] * problem.axes)


def gradients(problem: Problem, method: str, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    """Of input and kernels; returns that of the kernels."""
    if method == "matrix":
        return _matrix_gradients(problem, grad, kernels, needs)
    if method == "tiles":
        return _tiles_gradients(problem, grad, kernels, needs)
    groups = problem.samples * problem.groups
    stacked = _stack_samples(grad), _stack_samples(problem.input), kernels.flatten(0, 1)
    found = problem.gradients(*stacked, groups, needs)
    if needs[0]:
        problem.in_format(found[0].contiguous().view(problem.input.shape))
    return found[1].view(kernels.shape) if needs[1] else kernels


def _matrix_gradients(problem: Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    w = kernels.view(problem.samples * problem.groups, kernels.shape[1] // problem.groups, -1)
    source, product = as_matrices(grad, problem.groups), torch.empty_like(kernels)
    channels_last = problem.format is not torch.contiguous_format and problem.groups == 1
    images = []  # which are parts of one
    for chunk in problem.chunks():
        blocks, image = problem.blocks(chunk), problem.input[chunk]
        if needs[0]:
            of_columns = grad.new_empty(len(w[blocks]), w.shape[2], source.shape[2])
            multiply_into(of_columns, w[blocks].mT, source[blocks])
            if not problem.columns_are_the_image:
                images.append(own.columns_to_image(of_columns, image.shape, channels_last))
                problem.in_format(images[-1])
            del of_columns
        if needs[1]:
            multiply_into(product.view(w.shape)[blocks], source[blocks], problem.columns(image).mT)
    return product if needs[1] else kernels


def _tiles_gradients(problem: Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    if is_padded(problem):
        return _padded_gradients(problem, grad, kernels, needs)
    numbers = [*problem.stride], [*problem.padding], [*problem.dilation], problem.groups
    grad = _in_whole_vectors(grad)
    if needs[0]:
        problem.in_format(own.tiles_input_gradient(grad, kernels, problem.input.shape, *numbers))
    if not needs[1]:
        return kernels
    image = _in_whole_vectors(problem.input)
    of_kernels: Tensor = own.tiles_kernels_gradient(grad, image, kernels.shape, *numbers)
    return of_kernels


def _padded_gradients(problem: Problem, grad: Tensor, kernels: Tensor, needs: tuple[bool, bool]) -> Tensor:
    padding = Padding(problem)
    image, grad = padding.image(), _in_whole_vectors(padding.result_gradient(grad))
    if needs[0]:
        of_image = own.tiles_input_gradient(grad, padding.kernels(kernels), image.shape, *padding.numbers)
        problem.in_format(padding.image_gradient(of_image))
    else:
        padding.new_kernels(kernels)
    if not needs[1]:
        return kernels
    of_kernels = own.tiles_kernels_gradient(grad, image, padding.kernel_sizes, *padding.numbers)
    return padding.kernels_gradient(of_kernels, kernels)
