"""What operators of crossd_ops call inside of the library on a GPU, in torch's words.

A recorder cannot look into the library, and the library cannot run on fakes. So this repeats csrc/convolution: the
operators of the way that the library chooses, with the same sizes and strides. A test holds both together, by what the
library itself dispatches on the CPU with CROSSD_CONVOLUTION_BRANCH=gpu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.prediction.compositions import sample_kernels, shared
from benchmarks.gpu.prediction.compositions.padding import is_padded
from benchmarks.gpu.prediction.compositions.problem import Problem
from benchmarks.gpu.prediction.compositions.stand_ins import tap_major

_operators: Any = torch.ops.crossd_ops


def _in_taps(problem: Problem, method: str) -> bool:
    """Whether the kernels of samples are tap-major; those that are padded become so."""
    return method == "tiles" and not is_padded(problem)


def _convolution(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: Sequence[int]) -> None:
    problem = Problem(input, weight, shift, place)
    method = problem.method(backward=False)
    bias = sample_kernels.bias_of_method(bias, input, method)
    if method == "shared":
        return shared.convolve(problem, bias)
    sample_kernels.convolve(problem, method, problem.kernels(_in_taps(problem, method)), bias)


def _sample_convolution(input: Tensor, weight: Tensor, bias: Tensor | None, place: Sequence[int]) -> None:
    problem = Problem(input, weight, None, place)
    method, kernels = problem.method(backward=False), weight.contiguous()
    if _in_taps(problem, method):
        kernels = tap_major(kernels, kernels.shape).copy_(kernels)
    sample_kernels.convolve(problem, method, kernels, sample_kernels.bias_of_method(bias, input, method))


def _convolution_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    shift: Tensor,
    place: Sequence[int],
    need_input: bool,
    need_weight: bool,
    need_shift: bool,
) -> None:
    problem = Problem(input, weight, shift, place)
    needs, method = (need_input, need_weight or need_shift), problem.method(backward=True, need_input=need_input)
    if method == "shared":
        return shared.gradients(problem, grad, need_input, need_weight, need_shift)
    kernels = problem.kernels(_in_taps(problem, method), with_values=need_input)
    grad_kernels = sample_kernels.gradients(problem, method, grad, kernels, needs)
    if needs[1]:
        _operators.fourier_shift_backward(
            grad_kernels, weight, problem.shift, problem.dim, problem.index, need_weight, need_shift
        )


def _sample_convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, place: Sequence[int], need_input: bool, need_weight: bool
) -> None:
    if need_input or need_weight:
        problem = Problem(input, weight, None, place)
        method, kernels = problem.method(backward=True, need_input=need_input), weight.contiguous()
        if _in_taps(problem, method):
            kernels = tap_major(kernels, kernels.shape).copy_(kernels)
        sample_kernels.gradients(problem, method, grad, kernels, (need_input, need_weight)).contiguous()


COMPOSITIONS: dict[str, Callable[..., None]] = {
    "crossd_ops.convolution": _convolution,
    "crossd_ops.convolution_backward": _convolution_backward,
    "crossd_ops.sample_convolution": _sample_convolution,
    "crossd_ops.sample_convolution_backward": _sample_convolution_backward,
}
