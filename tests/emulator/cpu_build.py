"""Compiles a check program with the CPU kernels, outside of torch; objects are kept in ``build/emulator``."""

from __future__ import annotations

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .build import CACHE, CSRC, EMULATOR, VARIANTS, only_one

# Stands in for torch's: as many threads as the call has turned out to be the next of, so that every order is seen;
# each sixth time one share after the other, the last first, which shows what a share writes into the next one.
PARALLEL_FOR = """
#pragma once
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>
namespace torch::stable {
template <typename Function>
void parallel_for(int64_t begin, int64_t end, int64_t, const Function& function) {
  static int calls = 0;
  const int64_t threads = 1 + calls++ % 6, share = std::max<int64_t>(1, (end - begin + threads - 1) / threads);
  if (threads == 6) {
    for (int64_t i = begin + (end - begin - 1) / share * share; i >= begin; i -= share)
      function(i, std::min(i + share, end));
    return;
  }
  std::vector<std::thread> pool;
  for (int64_t i = begin; i < end; i += share)
    pool.emplace_back([=, &function] { function(i, std::min(i + share, end)); });
  for (std::thread& thread : pool) thread.join();
}
}  // namespace torch::stable
"""

# Checks of a source that needs no other, and that no other needs.
OF_ONE_SOURCE = {
    "columns_check": "convolution/cpu/columns.cpp",
    "image_rows_check": "convolution/cpu/image_rows.cpp",
}


def stand_in_for_torch(folder: Path) -> None:
    """A ``torch`` to include from ``folder``: parallel_for from above, and the headers of torch that stand alone."""
    operators = folder / "torch" / "csrc" / "stable" / "ops.h"
    operators.parent.mkdir(parents=True, exist_ok=True)
    operators.write_text(PARALLEL_FOR)
    headers = folder / "torch" / "headeronly"
    headers.unlink(missing_ok=True)
    headers.symlink_to(Path(torch.__file__).parent / "include" / "torch" / "headeronly")


def cpu_program(check: Path, variant: str) -> Path:
    """The program of ``check``; compiled once for each state of its sources."""
    if check.stem in OF_ONE_SOURCE:
        kernels = [CSRC / OF_ONE_SOURCE[check.stem]]
    else:
        apart = {CSRC / source for source in OF_ONE_SOURCE.values()}
        kernels = sorted({*CSRC.rglob("*/cpu/*.cpp"), *CSRC.glob("instruction_sets/*.cpp")} - apart)
    headers = sorted([*CSRC.rglob("*.h"), *EMULATOR.glob("*.h")])
    folder = CACHE / f"cpu-{variant}"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["g++", "-std=c++17", *VARIANTS[variant], "-DCHECK_CPU", "-pthread"]
    if variant == "thread":
        command.append("-fno-builtin-memcpy")  # what is copied in place, ThreadSanitizer does not see
    includes = [f"-I{include}" for include in (folder, CSRC, EMULATOR)]

    def compiled(source: Path) -> Path:
        text = "\0".join([*command, PARALLEL_FOR]).encode() + b"".join(path.read_bytes() for path in [source, *headers])
        target = folder / f"{source.stem}-{hashlib.sha256(text).hexdigest()[:16]}.o"
        if not target.exists():
            for outdated in folder.glob(f"{source.stem}-{'[0-9a-f]' * 16}.o"):
                outdated.unlink()
            _run([*command, *includes, "-c", str(source), "-o", str(target)])
        return target

    program = folder / check.stem
    with only_one(folder / ".lock"), ThreadPoolExecutor(max_workers=2) as pool:
        stand_in_for_torch(folder)
        objects = list(pool.map(compiled, [check, *kernels]))
        _run([*command, *map(str, objects), "-o", str(program)])
    return program


def _run(command: list[str]) -> None:
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(process.stderr[-4000:])
