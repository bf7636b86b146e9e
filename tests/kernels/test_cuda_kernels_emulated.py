"""The CUDA kernels, run by the emulator against the float64 definition, and under sanitizers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from emulator.build import CACHE, CSRC, EMULATOR, altered_sources, compile_program, in_parallel, run_program, why_not
from emulator.harness import BackwardProblem, EmulatedBackend, ForwardProblem

CHECK_KERNELS = EMULATOR / "check_kernels.cpp"
GROUPS = ["dtypes", "kernels", "layouts", "sizes", "special"]

pytestmark = pytest.mark.skipif(why_not("plain") is not None, reason=str(why_not("plain")))


def want_one_block(csrc: Path) -> None:
    """Small problems are spread over many blocks: here each block loops over all samples and many pairs instead."""
    source = csrc / "shift" / "cuda" / "launch.cuh"
    text, count = re.subn(r"(kWantedBlocks|kWantedRowTiles) = \d+;", r"\1 = 1;", source.read_text())
    assert count == 2, "the constants that set the number of blocks have other names"
    source.write_text(text)


@pytest.fixture(scope="module")
def check_kernels() -> Callable[[str, str], Path]:
    """``check_kernels(blocks, variant)``: the program with "many" or "few" blocks; skips where it cannot be built."""
    places = {"many": (CSRC, CACHE), "few": altered_sources("few_blocks", want_one_block)}

    def build(blocks: str, variant: str) -> Path:
        csrc, folder = places[blocks]
        return compile_program(CHECK_KERNELS, variant, csrc=csrc, folder=folder)

    wanted = [("many", "address"), ("few", "thread"), ("few", "plain"), ("many", "plain")]
    buildable = [(blocks, variant) for blocks, variant in wanted if why_not(variant) is None]
    in_parallel([partial(build, blocks, variant) for blocks, variant in buildable])

    def get(blocks: str, variant: str) -> Path:
        reason = why_not(variant)
        if reason is not None:
            pytest.skip(reason)
        return build(blocks, variant)

    return get


@pytest.mark.parametrize(
    ("blocks", "group"),
    [*(("many", group) for group in GROUPS), ("few", "sizes"), ("few", "layouts"), ("few", "special")],
)
def test_kernels_agree_with_the_definition_in_three_orders(
    check_kernels: Callable[[str, str], Path], blocks: str, group: str
) -> None:
    process = run_program(check_kernels(blocks, "plain"), group)
    failures = [line for line in process.stdout.splitlines() if not line.startswith("ok")]
    assert process.returncode == 0, "\n".join(failures[:20])
    assert process.stdout.count("ok  ") > 30


@pytest.mark.parametrize(("blocks", "variant"), [("few", "thread"), ("many", "address")])
def test_kernels_under_sanitizers(check_kernels: Callable[[str, str], Path], blocks: str, variant: str) -> None:
    process = run_program(check_kernels(blocks, variant), "--one-order", "brief")
    assert process.returncode == 0, process.stdout[-8000:]
    assert "0 of" in process.stdout.splitlines()[-1]


def direct(weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The whole shifted weight by torch.fft: another way to it than the C++ definition's."""
    frequencies = [torch.fft.fftfreq(size, dtype=weight.dtype) for size in weight.shape[2:]]
    grid = torch.stack(torch.meshgrid(*frequencies, indexing="ij"))
    phase = torch.exp(-2j * torch.pi * torch.einsum("ba,axyz->bxyz", shift, grid))
    shifted: torch.Tensor = torch.fft.ifftn(torch.fft.fftn(weight, dim=(2, 3, 4)) * phase[:, None, None], dim=(3, 4, 5))
    return shifted.real


@pytest.mark.parametrize("size", [(3, 3, 3), (4, 4, 4), (5, 5, 5), (7, 7, 7), (2, 3, 5)])
@pytest.mark.parametrize(("dim", "index"), [(0, None), (0, 1), (1, 0), (2, 1)])
def test_backend_for_tensors(size: tuple[int, int, int], dim: int, index: int | None) -> None:
    backend = EmulatedBackend()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, *size, dtype=torch.float64, generator=generator).requires_grad_()
    shift = torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    expected = direct(weight, shift)
    if index is not None:
        expected = expected.select(3 + dim, index)
    got = backend.fourier_shift(weight, shift, dim, index, torch.float64)
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-12)

    grad = torch.randn(expected.shape[1:], dtype=torch.float64, generator=generator).expand_as(expected)
    expected_grads = torch.autograd.grad(expected, (weight, shift), grad)
    got_grads = backend.fourier_shift_backward(grad, weight, shift, dim, index, True, True)
    torch.testing.assert_close(got_grads, expected_grads, rtol=0, atol=1e-11)
    nothing, shift_alone = backend.fourier_shift_backward(grad, weight, shift, dim, index, False, True)
    assert nothing.shape == (0,)
    torch.testing.assert_close(shift_alone, expected_grads[1], rtol=0, atol=1e-11)


class Asked(EmulatedBackend):
    """Notes the tensors of the last call that move in vectors."""

    moved_in_vectors: set[str]

    def _run(self, direction: str, problem: ForwardProblem | BackwardProblem, **tensors: torch.Tensor) -> None:
        self.moved_in_vectors = self.vectors(problem)
        super()._run(direction, problem, **tensors)


def in_memory(tensor: torch.Tensor, axes: tuple[int, ...], gaps: tuple[int, ...]) -> torch.Tensor:
    """A copy with its axes in memory in this order, the fastest last, and gaps of so many elements along each."""
    sizes = [tensor.shape[axis] for axis in axes]
    memory = torch.full([size + gap for size, gap in zip(sizes, gaps, strict=True)], float("nan"), dtype=tensor.dtype)
    view = memory[tuple(slice(size) for size in sizes)].permute([axes.index(axis) for axis in range(tensor.dim())])
    return view.copy_(tensor)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("in_channels", "axes", "gaps", "in_vectors"),
    [
        (8, (0, 3, 4, 1, 2), (0, 0, 0, 0, 0), True),
        (8, (3, 4, 0, 1, 2), (0, 0, 0, 0, 0), True),
        (8, (0, 3, 4, 1, 2), (0, 0, 0, 8, 0), True),  # between taps
        (7, (0, 3, 4, 1, 2), (0, 0, 0, 0, 0), False),  # taps begin inside of a vector
        (8, (0, 4, 3, 1, 2), (0, 0, 0, 0, 0), False),  # taps are not evenly apart
        (8, (0, 3, 4, 1, 2), (0, 0, 1, 0, 0), False),
        (8, (0, 3, 4, 1, 2), (0, 0, 0, 0, 8), False),  # pairs are not neighbours
        (8, (0, 3, 4, 2, 1), (0, 0, 0, 0, 0), False),
    ],
)
def test_tap_major_gradients_move_in_vectors_where_they_can(
    size: int, dtype: torch.dtype, in_channels: int, axes: tuple[int, ...], gaps: tuple[int, ...], in_vectors: bool
) -> None:
    backend = Asked()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, in_channels, size, size, size, generator=generator)
    shift = torch.randn(9, 3, generator=generator)
    grad = torch.randn(9, 5, in_channels, size, size, generator=generator).to(dtype)
    expected = backend.fourier_shift_backward(grad, weight, shift, 0, 1, True, True)
    got = backend.fourier_shift_backward(in_memory(grad, axes, gaps), weight, shift, 0, 1, True, True)
    assert ("grad" in backend.moved_in_vectors) == in_vectors
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_backend_reports_what_it_did() -> None:
    backend = EmulatedBackend()
    before = backend.statistics()["launches"]
    for order in ("reverse", "random", "forward"):
        backend.set_order(order, seed=3)
        backend.fourier_shift(torch.ones(1, 1, 3, 3, 3), torch.zeros(1, 3), 0, 1, torch.bfloat16)
    assert backend.statistics()["launches"] == before + 3
    assert 0 < backend.statistics()["largest_dynamic_shared"] <= 163 * 1024
    with pytest.raises(ValueError, match=r"grad: expected \(1, 1, 1, 3, 3\), got \(1, 1, 1, 3, 2\)"):
        backend.fourier_shift_backward(
            torch.ones(1, 1, 1, 3, 2), torch.ones(1, 1, 3, 3, 3), torch.zeros(1, 3), 0, 1, True, True
        )
