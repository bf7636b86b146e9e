"""The CUDA kernels, run by the emulator against the float64 definition, under sanitizers, and as nvcc compiles them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from emulator.build import CACHE, CSRC, EMULATOR, altered_sources, compile_program, in_parallel, run_program, why_not
from emulator.harness import EmulatedBackend

CHECK_KERNELS = EMULATOR / "check_kernels.cpp"
GROUPS = ["dtypes", "kernels", "layouts", "sizes", "special"]
BARRIER = r"__sync(threads|warp)\(\);"
# The rotation head has a check of its own, in test_rotation_head_operators.py.
KERNEL_SOURCES = sorted(
    path.name
    for path in (CSRC / "cuda").glob("*.cuh")
    if re.search(BARRIER, path.read_text()) and not path.name.startswith("rotation_head")
)
FAST_KERNELS = r"cubic3|rows<[^>]*\b5\b"  # of sizes 3 and 5, by their demangled names
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]

pytestmark = pytest.mark.skipif(why_not("plain") is not None, reason=str(why_not("plain")))


def want_one_block(csrc: Path) -> None:
    """Small problems are spread over many blocks: here each block loops over all samples and many pairs instead."""
    source = csrc / "cuda" / "fourier_shift_launch.cuh"
    text, count = re.subn(r"kWantedBlocks = \d+;", "kWantedBlocks = 1;", source.read_text())
    assert count == 1, "the constant that sets the number of blocks has another name"
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


@pytest.mark.parametrize("name", KERNEL_SOURCES)
def test_a_missing_barrier_is_found(name: str) -> None:
    """The check itself can fail: without the first barrier of a kernel's source it does."""
    variant = "thread" if why_not("thread") is None else "plain"

    def drop_barrier(csrc: Path) -> None:
        want_one_block(csrc)
        source = csrc / "cuda" / name
        source.write_text(re.sub(BARRIER, ";", source.read_text(), count=1))

    csrc, folder = altered_sources(f"missing_barrier_{name}", drop_barrier)
    process = run_program(compile_program(CHECK_KERNELS, variant, csrc=csrc, folder=folder), "--one-order", "brief")
    assert process.returncode != 0
    assert "ThreadSanitizer: data race" in process.stdout or "FAIL" in process.stdout


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


def ptxas_report(architecture: str, folder: Path) -> dict[str, tuple[int, int]]:
    """Of each kernel, by its demangled name: bytes of stack frame, and bytes of spilled registers."""
    command = ["nvcc", "-O3", f"-arch={architecture}", "-Xptxas", "-v", "-Werror", "all-warnings"]
    command += ["-Xcompiler", "-Wall,-Wextra", f"-I{CSRC}", "-cubin", str(CSRC / "cuda" / "fourier_shift.cu")]
    process = subprocess.run([*command, "-o", str(folder / f"{architecture}.cubin")], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    demangled = subprocess.run(["c++filt"], input=process.stderr, capture_output=True, text=True, check=True).stdout
    pattern = r"Function properties for (.+)\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes"
    found = re.findall(pattern, demangled)
    return {name: (int(stack_frame), int(stores) + int(loads)) for name, stack_frame, stores, loads in found}


@pytest.fixture(scope="module")
def ptxas_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[int, int]]]:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH")
    if shutil.which("c++filt") is None:
        pytest.skip("c++filt is not on PATH")
    folder = tmp_path_factory.mktemp("cubin")
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        reports = pool.map(lambda architecture: ptxas_report(architecture, folder), ARCHITECTURES)
        return dict(zip(ARCHITECTURES, reports, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_of_size_3_and_5_keep_everything_in_registers(
    ptxas_reports: dict[str, dict[str, tuple[int, int]]], architecture: str
) -> None:
    fast = {name: use for name, use in ptxas_reports[architecture].items() if re.search(FAST_KERNELS, name)}
    for kernel in ("cubic3", "rows"):
        for direction in ("forward", "backward"):
            assert any(kernel in name and direction in name for name in fast), (kernel, direction)
    assert {name: use for name, use in fast.items() if use != (0, 0)} == {}
