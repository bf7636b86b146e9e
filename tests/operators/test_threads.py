"""Calls from many threads at once, after a fork, and interrupted: nothing is shared that could break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import crossd_ops
from crossd_ops import CrossDConv2d

THREADS = 32

pytestmark = pytest.mark.usefixtures("compiled_library")


def work(seed: int) -> list[Tensor]:
    """Functions and a layer, forward and backward, of sizes that differ from thread to thread."""
    values = torch.Generator().manual_seed(seed)
    kernel = (3, 4, 5, 7)[seed % 4]
    weight = torch.randn(6 + seed % 5, 4, kernel, kernel, kernel, generator=values).requires_grad_()
    shift = torch.randn(3, 3, generator=values).requires_grad_()
    input = torch.randn(3, 4, 9, 9, generator=values).requires_grad_()
    out = crossd_ops.crossd_conv2d(input, weight, shift, padding="same", index=seed % kernel)
    volume = crossd_ops.fourier_shift(weight, shift)
    leaves = (input, weight, shift)
    results = [out, volume, *torch.autograd.grad(out.square().sum() + volume.square().sum(), leaves)]
    return [result.detach() for result in results]


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_32_threads_give_what_one_gives() -> None:
    seeds = [seed % 48 for seed in range(4 * 48)]
    serial = [work(seed) for seed in range(48)]
    start = threading.Barrier(THREADS)

    def at_once(seed: int) -> list[Tensor]:
        return work(seed)

    with ThreadPoolExecutor(THREADS, initializer=start.wait) as pool:
        for seed, result in zip(seeds, pool.map(at_once, seeds), strict=True):
            assert_equal(result, serial[seed])


def test_threads_share_one_layer() -> None:
    """In evaluation a layer is read alone; its results are those of one thread."""
    layer = CrossDConv2d(4, 6, 3, padding=1).eval()
    inputs = [torch.randn(2, 4, 8, 8) for _ in range(THREADS)]
    with torch.no_grad():
        serial = [layer(input) for input in inputs]

    def call(input: Tensor) -> Tensor:
        with torch.no_grad():  # of each thread
            return layer(input)

    with ThreadPoolExecutor(THREADS) as pool:
        assert_equal(list(pool.map(call, inputs)), serial)


def test_grad_mode_belongs_to_the_thread() -> None:
    weight, shift = torch.randn(2, 2, 3, 3, 3, requires_grad=True), torch.randn(2, 3)

    def with_grad(enabled: bool) -> bool:
        with torch.set_grad_enabled(enabled):
            return crossd_ops.fourier_shift_slice(weight, shift).requires_grad

    wanted = [index % 2 == 0 for index in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(with_grad, wanted)) == wanted


AFTER_FORK = """
import os, sys
import torch
import crossd_ops

torch.set_num_threads(1)
weight, shift = torch.randn(8, 8, 3, 3, 3, requires_grad=True), torch.randn(4, 3)

def results():
    out = crossd_ops.fourier_shift_slice(weight, shift)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), weight)]

with torch.no_grad():
    expected = crossd_ops.fourier_shift_slice(weight, shift)
read, write = os.pipe()
child = os.fork()
if child == 0:
    with torch.no_grad():
        same = torch.equal(crossd_ops.fourier_shift_slice(weight, shift), expected)
    out = crossd_ops.crossd_conv2d(torch.randn(4, 8, 6, 6), weight.detach(), shift)
    os.write(write, b"1" if same and bool(out.isfinite().all()) else b"0")
    os._exit(0)
os.close(write)
answer = os.read(read, 1)
_, status = os.waitpid(child, 0)
again = results()  # the parent goes on, backward included
print(answer.decode(), status, bool(again[1].isfinite().all()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork() -> None:
    """Workers of a DataLoader fork after the library was used; backward in a child is what torch itself forbids."""
    process = subprocess.run([sys.executable, "-c", AFTER_FORK], capture_output=True, text=True, timeout=120)
    assert process.stdout.split() == ["1", "0", "True"], process.stderr[-2000:]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where whoever started the tests had it ignored (nohup, `&` in a script)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_leaves_nothing_broken(interruptible: None) -> None:
    """Ctrl-C at many moments, in Python and inside operators; a backend that was forced is put back."""
    weight, shift = torch.randn(48, 48, 3, 3, 3, requires_grad=True), torch.randn(8, 3, requires_grad=True)

    def call() -> list[Tensor]:
        out = crossd_ops.fourier_shift_slice(weight, shift)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), (weight, shift))]

    expected = call()
    before = crossd_ops.backend()
    interrupted = 0
    for moment in range(30):
        timer = threading.Timer(0.0005 * (moment % 10) + 0.0001, signal.raise_signal, (signal.SIGINT,))
        try:
            timer.start()
            with crossd_ops.use_backend("compiled" if moment % 2 else "reference"):
                while True:
                    call()
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        assert crossd_ops.backend() == before
        assert_equal(call(), expected)
    assert interrupted == 30
