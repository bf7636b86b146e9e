"""The CUDA-on-CPU emulator itself: right values from correct kernels, and every planted fault found."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from emulator.build import EMULATOR, compile_program, in_parallel, run_program, why_not

SELFTEST = EMULATOR / "selftest"
PROGRAMS = [("values", "plain"), ("values", "ucontext"), ("values", "thread"), ("values", "address")]
PROGRAMS += [("errors", "plain"), ("errors", "ucontext"), ("errors", "thread"), ("errors", "address")]
PROGRAMS += [("tensor_core", "plain"), ("tensor_core", "thread"), ("tensor_core", "address")]
FAULTS = ["missing_barrier", "missing_second_barrier", "missing_warp_barrier", "warp_barrier_for_block"]
FAULTS += ["product_missing_barrier"]


@pytest.fixture(scope="session")
def program() -> Callable[[str, str], Path]:
    """``program(name, variant)``: a compiled program of the self-test; skips where it cannot be built."""
    wanted = [*PROGRAMS, *(("planted_faults", variant) for variant in ("plain", "thread", "address"))]
    if why_not("plain") is None:
        buildable = [(SELFTEST / f"{name}.cpp", variant) for name, variant in wanted if why_not(variant) is None]
        in_parallel([partial(compile_program, source, variant) for source, variant in buildable])

    def get(name: str, variant: str) -> Path:
        reason = why_not(variant)
        if reason is not None:
            pytest.skip(reason)
        return compile_program(SELFTEST / f"{name}.cpp", variant)

    return get


def faulty(program: Path, name: str) -> tuple[int, str]:
    """Exit status and output of the kernel with its fault; without it, all orders must agree and no sanitizer speak."""
    sound = run_program(program, name, "0")
    assert sound.returncode == 0, sound.stdout
    assert len(sound.stdout.splitlines()) == 3
    assert len(set(sound.stdout.splitlines())) == 1
    broken = run_program(program, name, "1")
    return broken.returncode, broken.stdout


@pytest.mark.parametrize(("name", "variant"), PROGRAMS)
def test_self_test_program(program: Callable[[str, str], Path], name: str, variant: str) -> None:
    process = run_program(program(name, variant))
    assert process.returncode == 0, process.stdout
    assert process.stdout == "0 failures\n"


@pytest.mark.parametrize("fault", ["missing_barrier", "missing_warp_barrier", "warp_barrier_for_block"])
def test_missing_barrier_makes_the_result_depend_on_the_order(program: Callable[[str, str], Path], fault: str) -> None:
    status, output = faulty(program("planted_faults", "plain"), fault)
    assert status == 0
    assert len(set(output.splitlines())) > 1 or "nan" in output


@pytest.mark.parametrize("fault", FAULTS)
def test_missing_barrier_is_a_data_race(program: Callable[[str, str], Path], fault: str) -> None:
    status, output = faulty(program("planted_faults", "thread"), fault)
    assert status == 66
    assert "ThreadSanitizer: data race" in output
    assert f"{fault}(" in output or "void product<" in output


@pytest.mark.parametrize("fault", ["wrong_lane", "wrong_matrix", "missing_wait", "edge_off_by_one"])
def test_fault_in_a_product_on_tensor_cores_makes_it_wrong(program: Callable[[str, str], Path], fault: str) -> None:
    name = f"product_{fault}"
    status, output = faulty(program("planted_faults", "plain"), name)
    sound = run_program(program("planted_faults", "plain"), name, "0").stdout.split()
    assert status == 0
    assert all(got != right for got, right in zip(output.split(), sound, strict=True))


@pytest.fixture(scope="session")
def cutlass() -> Path:
    """The headers of CuTe, of the wheel nvidia-cutlass; nothing of it is imported."""
    package = importlib.util.find_spec("cutlass_library")
    if package is None or package.origin is None:
        pytest.skip("CuTe's headers are not installed, as nvidia-cutlass")
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH, with the CUDA headers that CuTe's include")
    return Path(package.origin).parent / "source" / "include"


def test_fragment_layouts_are_those_of_cute(cutlass: Path, tmp_path: Path) -> None:
    program, source = tmp_path / "cute_layouts", SELFTEST / "cute_layouts.cpp"
    command = ["nvcc", "-std=c++17", f"-I{EMULATOR / 'cuda_on_cpu'}", "-isystem", str(cutlass), str(source)]
    subprocess.run([*command, "-o", str(program)], check=True)
    process = run_program(program)
    assert (process.returncode, process.stdout) == (0, "0 of 2240 places differ\n")


def test_unwritten_shared_memory_is_nan(program: Callable[[str, str], Path]) -> None:
    status, output = faulty(program("planted_faults", "plain"), "unwritten_shared")
    assert status == 0
    assert [line.lstrip("-") for line in output.split()] == ["nan"] * 3


@pytest.mark.parametrize("fault", ["shared_out_of_bounds", "global_out_of_bounds"])
def test_out_of_bounds_is_reported(program: Callable[[str, str], Path], fault: str) -> None:
    status, output = faulty(program("planted_faults", "address"), fault)
    assert status != 0
    assert "AddressSanitizer: heap-buffer-overflow" in output
    assert f"{fault}(" in output


def test_misaligned_wide_access_is_reported(program: Callable[[str, str], Path]) -> None:
    status, output = faulty(program("planted_faults", "address"), "misaligned")
    assert status != 0
    assert "misaligned address" in output
