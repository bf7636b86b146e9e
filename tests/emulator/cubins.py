"""The CUDA kernels as nvcc compiles them, in ``build/emulator``, once for each state of the sources."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

from .build import CACHE, CSRC, digest_of, only_one


def compile_cubin(source: str, architecture: str) -> Path:
    """Machine code of a file of csrc, with its lines; beside it, as ``.txt``, what ptxas says. No warning may come."""
    command = ["nvcc", "-O3", f"-arch={architecture}", "-lineinfo", "-Xptxas", "-v", "-Werror", "all-warnings"]
    command += ["-Xcompiler", "-Wall,-Wextra", f"-I{CSRC}", "-cubin", str(CSRC / source)]
    name = f"{Path(source).stem}-{architecture}"
    digest = digest_of([CSRC / source, *CSRC.rglob("*.h"), *CSRC.rglob("*.cuh")], nvcc_release(), *command)
    target = CACHE / f"{name}-{digest}.cubin"
    CACHE.mkdir(parents=True, exist_ok=True)
    with only_one(CACHE / f".{name}.lock"), tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        if target.exists():
            return target
        result = Path(scratch) / "result"
        process = subprocess.run([*command, "-o", str(result)], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
        for outdated in CACHE.glob(f"{name}-*"):
            outdated.unlink(missing_ok=True)
        target.with_suffix(".txt").write_text(process.stderr)
        os.replace(result, target)
    return target


@functools.cache
def nvcc_release() -> str:
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release ([\d.]+)", text)
    assert match is not None
    return match[1]
