"""Whether CMake finds the installed torch at all: a CUDA build of it asks for a whole toolkit, which may be missing."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

# Nothing of crossd_ops in it: where this fails no project that uses torch can be configured.
_PROJECT = """
cmake_minimum_required(VERSION 3.18)
project(bare LANGUAGES CXX)
find_package(Torch REQUIRED)
add_executable(bare main.cpp)
target_link_libraries(bare PRIVATE ${TORCH_LIBRARIES})
"""


@functools.cache
def why_not() -> str | None:
    """Why no project with torch can be configured here; None where one can."""
    if shutil.which("cmake") is None:
        return "no cmake"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "CMakeLists.txt").write_text(_PROJECT)
        Path(folder, "main.cpp").write_text("int main() {}\n")
        prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
        command = ["cmake", "-S", folder, "-B", f"{folder}/build", prefix]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return None
    error = result.stderr[result.stderr.find("CMake Error") :]
    return "find_package(Torch) alone fails: " + " ".join(error.split())[:400]


def require() -> None:
    """Skips a test, or what a fixture makes, where torch itself is not found."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
