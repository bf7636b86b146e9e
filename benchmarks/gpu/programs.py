"""Programs that the run starts, and what is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = ("c++", "nvcc", "compute-sanitizer", "ninja")
_PACKAGES = ("numpy", "matplotlib", "pytest", "pytest-xdist", "hypothesis", "setuptools", "ninja", "pybind11", "triton")


def run(command: list[str], **environment: str) -> tuple[int, list[str]]:
    """Exit status and lines of a command in the checkout."""
    process = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return process.returncode, process.stdout.splitlines()


def find(program: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, or where CUDA_HOME says."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / folder for folder in ("bin", "compute-sanitizer")]
    return shutil.which(program) or next((str(path) for folder in folders if (path := folder / program).exists()), None)


def program_versions() -> dict[str, str | None]:
    """Of each program that the run uses; None where it is not there."""
    versions: dict[str, str | None] = {}
    for program in _PROGRAMS:
        path = find(program)
        lines = run([path, "--version"])[1] if path else []
        numbered = [line.strip() for line in lines if re.search(r"\d+\.\d+", line)]
        versions[program] = numbered[0] if numbered else None
    return versions


def package_versions() -> dict[str, str | None]:
    """Of each Python package that the run can use; None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def is_installed(module: str) -> bool:
    """Whether Python finds the module."""
    return importlib.util.find_spec(module) is not None
