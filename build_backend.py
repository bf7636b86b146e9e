"""PEP 517 backend: setuptools, with the torch of the target environment in reach of an isolated build.

Under build isolation pip shows a build only what `[build-system] requires` names. Naming torch there would download
another torch (gigabytes) and compile against that one, so the site-packages of the environment that pip installs into
are appended to the import path instead: last, so that the build tools of the isolated environment win.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import setuptools
from setuptools import build_meta

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

build_sdist = build_meta.build_sdist
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel


def fail(message: str) -> NoReturn:
    """End the build with one line: a traceback would bury what the user has to do."""
    raise SystemExit(f"crossd_ops: {message}")


def require_torch_and_compiler() -> None:
    folders = site.getsitepackages()
    if sys.prefix == sys.base_prefix:  # outside a virtual environment torch may be the user's own
        folders.append(site.getusersitepackages())
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    if importlib.util.find_spec("torch") is None:
        fail(
            'PyTorch is not installed in this environment; run "pip install torch" first, then install crossd_ops '
            'again (with uv or "python -m build": without build isolation).'
        )
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if shutil.which(compiler) is None:
        fail(
            f'no C++ compiler: expected "{compiler}" on PATH; install one (for example "apt-get install g++") '
            "or set CXX, then install crossd_ops again."
        )


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def find_cuda_home() -> str | None:
    """The toolkit. nvcc on PATH may be a wrapper script elsewhere, so nvcc itself is asked where it lives."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home is None and (nvcc := shutil.which("nvcc")):
        top = re.search(r"^#\$ TOP=(.+)$", run(nvcc, "--dryrun", "-x", "cu", os.devnull), re.MULTILINE)
        home = os.path.realpath(top[1]) if top else str(Path(nvcc).resolve().parent.parent)
    home = home or "/usr/local/cuda"
    return home if os.access(f"{home}/bin/nvcc", os.X_OK) else None


def choose_cuda_home() -> str | None:
    choice = os.environ.get("CROSSD_CUDA") or "auto"
    if choice not in ("0", "1", "auto"):
        fail(f'CROSSD_CUDA: expected 0, 1 or auto, got "{choice}"')
    home = find_cuda_home() if choice != "0" else None
    if choice == "1" and home is None:
        fail("CROSSD_CUDA=1 needs nvcc: put it on PATH or set CUDA_HOME, or use CROSSD_CUDA=0 for CPU kernels alone")
    return home


def check_environment() -> str | None:
    """Where the CUDA kernels are to be built: the toolkit; else None. Ends the build where something is missing."""
    if int(setuptools.__version__.split(".")[0]) < 77:
        fail(f'expected setuptools 77 or newer, got {setuptools.__version__}; run "pip install -U setuptools"')
    require_torch_and_compiler()
    return choose_cuda_home()


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    check_environment()
    return build_meta.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    check_environment()
    return build_meta.get_requires_for_build_editable(config_settings)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    check_environment()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    check_environment()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
