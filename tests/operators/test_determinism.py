"""The same bits from the same arguments: in 100 runs, and for any number of threads.

Our operators sum in an order that depends on sizes alone, so the number of threads makes no difference to them. The
convolution itself is a library's (oneDNN, NNPACK, BLAS), whose sums may depend on the number of threads: of
`crossd_conv2d` and the modules only runs with one number of threads are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import crossd_ops
from crossd_ops import CrossDConv2d

RUNS = 100
THREADS = (1, 2, 3, 7)

pytestmark = pytest.mark.usefixtures("compiled_library")

Call = Callable[[], list[Tensor]]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def shift_call(kernel: int, dtype: torch.dtype, samples: int, channels: int, whole: bool) -> Call:
    weight = torch.randn(channels, channels, kernel, kernel, kernel).to(dtype).requires_grad_()
    shift = torch.randn(samples, 3).to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    function = crossd_ops.fourier_shift if whole else crossd_ops.fourier_shift_slice
    grad = torch.randn(function(weight, shift).shape).to(dtype)

    def call() -> list[Tensor]:
        out = function(weight, shift)
        return [out.detach(), *torch.autograd.grad(out, (weight, shift), grad)]

    return call


def head_call(samples: int, size: int) -> Call:
    """The map's path to a shift, and the whole head: training statistics, gradients of input and parameters."""
    layer, input = CrossDConv2d(12, 4, 3), torch.randn(samples, 12, size, size, requires_grad=True)
    parameters = list(layer.rotation_params.parameters())
    grad = torch.randn(samples, 3)

    def call() -> list[Tensor]:
        shift = layer.predict_shift(input)
        return [shift.detach(), *torch.autograd.grad(shift, (input, *parameters), grad)]

    return call


CALLS: dict[str, Callable[[], Call]] = {
    "slice 3": lambda: shift_call(3, torch.float32, 5, 60, False),
    "slice 3 bfloat16": lambda: shift_call(3, torch.bfloat16, 3, 40, False),
    "slice 4": lambda: shift_call(4, torch.float32, 3, 24, False),
    "slice 5 float64": lambda: shift_call(5, torch.float64, 3, 30, False),
    "slice 7": lambda: shift_call(7, torch.float32, 3, 12, False),
    "whole 3": lambda: shift_call(3, torch.float32, 3, 40, True),
    "few pairs, many samples": lambda: shift_call(3, torch.float32, 64, 2, False),
}


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_a_hundred_runs_give_the_same_bits(name: str) -> None:
    torch.set_num_threads(2)
    call = CALLS[name]()
    first = call()
    assert all(equal(call(), first) for _ in range(RUNS))


@pytest.mark.parametrize("name", CALLS)
def test_the_number_of_threads_makes_no_difference(name: str) -> None:
    call = CALLS[name]()
    results = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        results.append(call())
    assert all(equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize(("samples", "size"), [(3, 17), (1, 70), (40, 5)])
def test_the_head_gives_the_same_bits(samples: int, size: int) -> None:
    call = head_call(samples, size)
    results = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        results += [call() for _ in range(RUNS // len(THREADS))]
    assert all(equal(result, results[0]) for result in results[1:])


def test_a_layer_gives_the_same_bits_with_one_number_of_threads() -> None:
    torch.set_num_threads(2)
    layer, input = CrossDConv2d(6, 8, 3, padding=1), torch.randn(3, 6, 12, 12, requires_grad=True)
    leaves = [input, *layer.parameters()]

    def call() -> list[Tensor]:
        out = layer(input)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]

    first = call()
    assert all(equal(call(), first) for _ in range(RUNS))


def test_values_of_other_samples_do_not_matter() -> None:
    """A sample's result depends on its own shift alone, wherever it stands in the batch."""
    weight, shift = torch.randn(20, 10, 3, 3, 3), torch.randn(9, 3)
    together = crossd_ops.fourier_shift_slice(weight, shift)
    for sample in range(9):
        assert torch.equal(crossd_ops.fourier_shift_slice(weight, shift[sample : sample + 1])[0], together[sample])
