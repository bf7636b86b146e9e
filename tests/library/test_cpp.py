"""The C++ header and the CMake package: tests/cpp, a project as any other, is built, run and loaded into Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cmake_torch
import pytest
import torch
from cpp_cases import all_cases

from crossd_ops.library import cmake, loaded

ROOT = Path(__file__).resolve().parents[2]
CONSUMER = ROOT / "tests" / "cpp"

pytestmark = [
    pytest.mark.usefixtures("compiled_library"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake"),
]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def output(*command: str | Path) -> str:
    result = run(*command)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def configure(build: Path, *options: str) -> None:
    cmake_torch.require()
    prefixes = f"{cmake.cmake_prefix_path};{torch.utils.cmake_prefix_path}"
    output("cmake", "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={prefixes}", *options)


# --- the consumer ---


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("cases") / "cases.pt"
    torch.save(all_cases(), path)
    return path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The consumer, built against the package that is imported here, by a linker that drops what seems unneeded."""
    build = tmp_path_factory.mktemp("consumer")
    drop = "-Wl,--as-needed"
    configure(build, f"-DCMAKE_EXE_LINKER_FLAGS={drop}", f"-DCMAKE_SHARED_LINKER_FLAGS={drop}")
    output("cmake", "--build", build, "--parallel", "2")
    return build


def test_values_gradients_training_and_refusals(build: Path, cases: Path) -> None:
    text = output(build / "run_consumer", cases)
    expected = sum(name.endswith("/output") for name in torch.load(cases))
    assert text.splitlines()[-1] == f"{expected} cases, 0 failures"


def test_consumer_finds_wrong_numbers(build: Path, cases: Path, tmp_path: Path) -> None:
    entries = torch.load(cases)
    wrong = (
        "fourier_shift:even/second1",
        "sample_conv3d/second0",
        "crossd_conv2d:loop/gradient2",
        "crossd_conv3d/output",
        "train/trained0",
    )
    for name in wrong:
        entries[name] += 1e-6
    torch.save(entries, tmp_path / "wrong.pt")
    result = run(build / "run_consumer", tmp_path / "wrong.pt")
    found = sorted(line for line in result.stdout.splitlines() if line.startswith("FAILED"))
    assert result.returncode == 1
    assert found == [
        "FAILED: crossd_conv2d:loop/gradient2: other numbers",
        "FAILED: crossd_conv3d/output: other numbers",
        "FAILED: fourier_shift:even/second1: other numbers",
        "FAILED: sample_conv3d/second0: other numbers",
        "FAILED: trained parameter 0: other numbers",
    ]


def test_program_that_forgets_the_library_is_told(build: Path, cases: Path) -> None:
    result = run(build / "run_unlinked", cases)
    assert result.returncode == 1
    assert (
        "is not registered: libcrossd_ops.so is not loaded; link the CMake target crossd_ops::crossd_ops"
        in result.stdout
    )


# Loads the consumer and the package, in the order of the first argument, and uses both.
TOGETHER = """
import ctypes, sys
import torch
order, consumer, cases = sys.argv[1:]
load = lambda: ctypes.CDLL(consumer, mode=ctypes.RTLD_GLOBAL)
library = load() if order == "consumer first" else None
import crossd_ops
library = library or load()
assert crossd_ops.backend("cpu") == "compiled"
assert crossd_ops.fourier_shift(torch.ones(1, 1, 3, 3, 3), torch.ones(2, 3)).shape == (2, 1, 1, 3, 3, 3)
assert library.run_consumer(cases.encode()) == 0
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "libcrossd_ops.so" in line}
print(len(loaded))
"""


@pytest.mark.parametrize("order", ["consumer first", "package first"])
def test_python_and_cpp_share_one_library(build: Path, cases: Path, order: str) -> None:
    text = output(sys.executable, "-c", TOGETHER, order, build / "libconsumer.so", cases)
    assert text.splitlines()[-1] == "1"


# --- CMake ---


def test_project_that_builds_crossd_ops_itself(tmp_path: Path) -> None:
    configure(tmp_path, f"-DCROSSD_OPS_SOURCE={ROOT}", "-DCROSSD_CUDA=OFF", "-GUnix Makefiles")
    link = (tmp_path / "CMakeFiles" / "run_consumer.dir" / "link.txt").read_text()
    built = re.escape(str(tmp_path / "crossd_ops" / "libcrossd_ops.so"))
    assert re.search(rf'-Wl,--push-state,--no-as-needed,"?{built}"?,--pop-state', link)
    flags = (tmp_path / "CMakeFiles" / "consumer_objects.dir" / "flags.make").read_text()
    assert str(ROOT / "csrc" / "include") in flags and "-std=gnu++20" in flags


FIND = """
cmake_minimum_required(VERSION 3.18)
project(find LANGUAGES CXX)
add_library(torch INTERFACE IMPORTED)
find_package(crossd_ops ${WANTED} CONFIG)
message(STATUS "found: ${crossd_ops_FOUND}")
if(crossd_ops_FOUND)
  get_target_property(include crossd_ops::crossd_ops INTERFACE_INCLUDE_DIRECTORIES)
  get_target_property(library crossd_ops::library IMPORTED_LOCATION)
  message(STATUS "version: ${crossd_ops_VERSION}")
  message(STATUS "paths: ${include} ${library}")
endif()
"""


def find(prefix: Path, build: Path, wanted: str = "") -> str:
    """What find_package says and finds, in a project that brings its own torch."""
    (build / "CMakeLists.txt").write_text(FIND)
    options = f"-DCMAKE_PREFIX_PATH={prefix}", f"-DWANTED={wanted}"
    result = run("cmake", "-S", build, "-B", build / "build", *options)
    return result.stdout + " ".join(result.stderr.split())


def test_versions(tmp_path: Path) -> None:
    header = (ROOT / "csrc" / "include" / "crossd_ops" / "crossd_ops.h").read_text()
    version = ".".join(re.findall(r"^#define CROSSD_OPS_VERSION_\w+ (\d+)$", header, re.MULTILINE))
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    major, minor, patch = map(int, version.split("."))
    assert f"version: {version}\n" in find(Path(cmake.cmake_prefix_path), tmp_path)
    for wanted, found in {f"{major}.{minor}": 1, f"{major}.{minor}.{patch + 1}": 0, f"{major + 1}.0": 0}.items():
        assert f"found: {found}\n" in find(Path(cmake.cmake_prefix_path), tmp_path, wanted)


@pytest.mark.parametrize("folder", ["lib", "lib/x86_64-linux-gnu"])
def test_installed_layouts(tmp_path: Path, folder: str) -> None:
    """Prefixes as `cmake --install` and the wheel lay them out."""
    prefix = tmp_path / "a prefix"
    shutil.copytree(ROOT / "csrc" / "include", prefix / "include")
    shutil.copytree(ROOT / "cmake", prefix / folder / "cmake" / "crossd_ops")
    assert "libcrossd_ops.so or crossd_ops/crossd_ops.h is missing" in find(prefix, tmp_path)
    shutil.copy(loaded.LIBRARY_PATH, prefix / folder)
    text = find(prefix, tmp_path)
    assert f"paths: {prefix / 'include'} {prefix / folder / 'libcrossd_ops.so'}" in text


def test_paths_of_the_package() -> None:
    assert (Path(cmake.include_path) / "crossd_ops" / "crossd_ops.h").is_file()
    assert Path(cmake.cmake_prefix_path).is_dir()
