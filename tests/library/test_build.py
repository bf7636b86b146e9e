"""What was built (symbols, facts, sources), what a build says when something is missing, CMake, the Makefile."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "crossd_ops" / "lib" / "libcrossd_ops.so"
UNSTABLE = re.compile(r"\b(at|c10)::|\b_?Py[A-Z_]")  # C++ symbols of torch, and the C API of Python

SYSTEM = re.compile(r"lib(stdc\+\+|gcc_s|m|c|pthread|dl|rt)\.so|ld-linux")


def output(*command: str | Path, **options: object) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, **options).stdout


def symbols(library: Path) -> list[str]:
    lines = output("nm", "-D", "-C", library).splitlines()
    return [line[16:].split(maxsplit=1)[1] for line in lines]


def needed(library: Path) -> list[str]:
    return re.findall(r"NEEDED.*\[(.+?)\]", output("readelf", "-d", library))


def operators(library: Path) -> list[str]:
    script = (
        "import sys, torch; torch.ops.load_library(sys.argv[1])\n"
        "for schema in torch._C._jit_get_all_schemas():\n"
        "    if schema.name.startswith('crossd_ops::'): print(schema)"
    )
    return sorted(output(sys.executable, "-c", script, library).splitlines())


# --- the libraries ---


def test_library_has_no_python_symbol_and_no_unstable_torch_symbol() -> None:
    assert [symbol for symbol in symbols(LIBRARY) if UNSTABLE.search(symbol)] == []


def test_symbol_scan_finds_what_it_looks_for() -> None:
    bindings = next((ROOT / "crossd_ops").glob("_C*.so"))
    assert any(UNSTABLE.search(symbol) for symbol in symbols(bindings))
    torch_symbols = symbols(Path(torch.__file__).parent / "lib" / "libc10.so")
    assert any(UNSTABLE.search(symbol) for symbol in torch_symbols)


def test_libraries_link_only_what_every_torch_has() -> None:
    assert {name for name in needed(LIBRARY) if not SYSTEM.match(name)} <= {"libtorch_cpu.so", "libc10.so"}
    bindings = next((ROOT / "crossd_ops").glob("_C*.so"))
    assert [name for name in needed(bindings) if not SYSTEM.match(name)] == []


def test_sources_list_names_every_source() -> None:
    listed = (ROOT / "csrc" / "sources.txt").read_text().split()
    found = {str(path.relative_to(ROOT)) for pattern in ("*.cpp", "*.cu") for path in (ROOT / "csrc").rglob(pattern)}
    assert sorted(listed) == sorted(found - {"csrc/bindings.cpp"})


def test_build_facts() -> None:
    from crossd_ops import _C

    facts = _C.build_info()
    assert facts["version"] == importlib.metadata.version("crossd_ops")
    assert facts["torch_target"] == "2.11"
    assert facts["fast_kernel_sizes"] == [3, 5, 7]
    assert re.match(r"(g\+\+|clang) \d+\.\d+", facts["compiler"])
    torch.ops.load_library(str(LIBRARY))
    has_cuda = torch._C._dispatch_has_kernel_for_dispatch_key("crossd_ops::fourier_shift", "CUDA")
    assert (facts["cuda_version"] is not None) == has_cuda
    assert bool(facts["cuda_architectures"]) == has_cuda
    assert all(re.fullmatch(r"(sm|compute)_\d+[af]?", name) for name in facts["cuda_architectures"])
    assert not has_cuda or any(name.startswith("compute_") for name in facts["cuda_architectures"])  # PTX of the newest


# --- what a build says ---


def run_setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "setup.py", *(arguments or ("build_ext",))]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CROSSD_CUDA": "yes"}, 'crossd_ops: CROSSD_CUDA: expected 0, 1 or auto, got "yes"'),
        ({"CROSSD_CUDA": "1", "CUDA_HOME": "/nonexistent"}, "crossd_ops: CROSSD_CUDA=1 needs nvcc: put it on PATH"),
        ({"CXX": "no-such-compiler"}, 'crossd_ops: no C++ compiler: expected "no-such-compiler" on PATH; install one'),
    ],
)
def test_one_line_says_what_is_wrong(environment: dict[str, str], message: str) -> None:
    result = run_setup(**environment)
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_unknown_architecture() -> None:
    result = run_setup(TORCH_CUDA_ARCH_LIST="9.0;ninety")
    expected = 'crossd_ops: TORCH_CUDA_ARCH_LIST: expected architectures such as "8.0;9.0+PTX", got "9.0;ninety"'
    assert (result.returncode, result.stderr.strip().splitlines()[-1]) == (1, expected)


# An isolated build sees none of the environment's site-packages; setuptools is the exception, imported before they go.
ISOLATED = """
import site, sys
import build_backend
import setuptools.build_meta
{site_packages}
sys.path = [path for path in sys.path if "site-packages" not in path or "_vendor" in path]
print(build_backend.get_requires_for_build_wheel())
import torch
"""


def run_isolated(site_packages: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", ISOLATED.format(site_packages=site_packages)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_isolated_build_finds_torch_of_the_environment() -> None:
    assert run_isolated("").returncode == 0


def test_missing_torch() -> None:
    result = run_isolated("site.getsitepackages = list")
    assert result.returncode == 1
    message = 'crossd_ops: PyTorch is not installed in this environment; run "pip install torch" first'
    assert result.stderr.startswith(message) and len(result.stderr.splitlines()) == 1


def test_metadata_needs_no_torch_import() -> None:
    result = run_setup("--version", CXX="no-such-compiler")
    assert result.stdout.strip().splitlines()[-1] == importlib.metadata.version("crossd_ops")


# --- CMake ---


@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")
def test_cmake_builds_the_same_operators_without_a_warning(tmp_path: Path) -> None:
    configure = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DCMAKE_INSTALL_LIBDIR=lib"]
    configure += [
        f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
        f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'installed'}",
    ]
    wrong = subprocess.run([*configure, "-DCROSSD_CUDA=maybe"], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0 and 'CROSSD_CUDA: expected AUTO, ON or OFF, got "maybe"' in wrong.stderr
    # The warnings are those of -Wall -Wextra, and of g++, which is what is held to have none.
    strict = ["-DCMAKE_CXX_FLAGS=-Werror"] if "Free Software Foundation" in output("c++", "--version") else []
    # -O1: warnings that come of optimisation are there too, in half the time.
    output(*configure, "-DCROSSD_CUDA=OFF", "-DCMAKE_CXX_FLAGS_RELEASE=-O1", *strict)
    output("cmake", "--build", tmp_path / "build", "--parallel", "2", "--target", "install")
    library = tmp_path / "installed" / "lib" / "libcrossd_ops.so"
    assert operators(library) == operators(LIBRARY) != []
    assert [symbol for symbol in symbols(library) if UNSTABLE.search(symbol)] == []
    assert (tmp_path / "installed" / "lib" / "cmake" / "crossd_ops" / "crossd_opsConfig.cmake").exists()


# --- Makefile ---


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose .venv/bin/python only notes what it is asked to do."""
    for name in ("Makefile", "pyproject.toml", "setup.py", "build_backend.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "ops.cpp").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> calls\n')
    python.chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str) -> list[str]:
    """What .venv/bin/python was asked to do, without the leading -m."""
    (checkout / "calls").write_text("")
    ours = ("BENCH_", "CROSSD_", "CUDA_", "CXX", "MAKE", "MFLAGS", "PYTEST_", "PYTHON", "TORCH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    output("make", f"PYTHON={sys.executable}", *arguments, cwd=checkout, env=environment)
    return [line.removeprefix("-m ") for line in (checkout / "calls").read_text().splitlines()]


PACKAGE = "pip install --no-build-isolation --no-deps --editable ."
RUN_TESTS = "pytest tests -n 2 --dist loadfile"


def test_make_installs_once(checkout: Path) -> None:
    torch_and_tools, *rest = make(checkout, "test")
    assert torch_and_tools.startswith("pip install torch==2.13.0 ")
    extras = [f"pip install --no-build-isolation --editable .[{name}]" for name in ("test", "bench")]
    assert [call for call in rest if "torchvision" not in call] == [PACKAGE, *extras, RUN_TESTS]
    (networks,) = (call for call in rest if "torchvision" in call)
    assert "--no-deps" in networks  # they would bring another torch
    assert make(checkout, "test") == [RUN_TESTS]
    assert make(checkout, "bench") == ["benchmarks"]


def test_make_rebuilds_what_changed(checkout: Path) -> None:
    make(checkout, "test")
    (checkout / "csrc" / "ops.cpp").write_text("// changed")
    assert make(checkout, "test") == [PACKAGE, RUN_TESTS]
    assert make(checkout, "test", "CROSSD_CUDA=0") == [PACKAGE, RUN_TESTS]
    calls = make(checkout, "test", "CROSSD_CUDA=0", "TORCH=2.11.0")
    assert calls[0].startswith("pip install torch==2.11.0 ") and PACKAGE in calls and calls[-1] == RUN_TESTS
    assert make(checkout, "test", "CROSSD_CUDA=0", "TORCH=2.11.0") == [RUN_TESTS]


def test_make_refuses_an_old_python(checkout: Path) -> None:
    old = checkout / "old-python"
    old.write_text('#!/bin/sh\ntest "$1" = --version && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    command = ["make", "test", f"PYTHON={old}"]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "crossd_ops: expected Python 3.10 or newer, got Python 3.9.1; set PYTHON=..." in result.stderr


def test_makefile_installs_the_build_tools_of_pyproject() -> None:
    requires = re.search(r"^requires = \[(.+)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires is not None
    makefile = (ROOT / "Makefile").read_text()
    assert all(name in makefile for name in re.findall(r'"(.+?)"', requires[1]))
