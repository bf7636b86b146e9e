"""Peak memory of an operator beyond its inputs, its output and its gradients.

On a GPU torch's allocator counts it. On a CPU the kernel does: resident memory's high-water mark (VmHWM), reset just
before the call, so scratch buffers that no torch allocator sees count too. For that each measurement has a process of
its own (`python -m benchmarks.memory` forks them), because memory that an earlier call freed and the allocator kept
would hide what a later one takes; and every block above 64 KiB is mapped and unmapped by itself (mallopt), for the
same reason.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.operator_cases import IMPLEMENTATIONS, OperatorCase, make_tensors, run_forward, run_forward_backward

PASSES: dict[str, Callable[..., Any]] = {"forward": run_forward, "forward_backward": run_forward_backward}

# Brings in code pages, thread stacks and the autograd engine, with buffers far too small to be mistaken for the case's.
_WARM_UP = OperatorCase(out_channels=64, in_channels=16, kernel=3, batch=2)

_MALLOPT_MMAP_THRESHOLD = -3
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_memory(cases: list[OperatorCase], device: torch.device) -> list[dict[str, dict[str, int | None]]]:
    """Bytes for each case as `[pass][implementation]`; None where this system cannot say."""
    if device.type == "cuda":
        return [_for_each_pass(lambda *key, case=case: _cuda_extra_bytes(case, *key, device)) for case in cases]
    if not sys.platform.startswith("linux"):
        return [_for_each_pass(lambda *_: None) for _ in cases]
    keys = [[*_case_key(case), name, kind] for case in cases for kind in PASSES for name in IMPLEMENTATIONS]
    request = json.dumps({"threads": torch.get_num_threads(), "measurements": keys})
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"],
        input=request,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    if completed.returncode:
        raise RuntimeError(f"memory measurement failed with exit status {completed.returncode}:\n{completed.stderr}")
    answers = iter(json.loads(completed.stdout))
    return [_for_each_pass(lambda *_: next(answers)) for _ in cases]


def _for_each_pass(measure: Callable[[str, str], int | None]) -> dict[str, dict[str, int | None]]:
    return {kind: {name: measure(name, kind) for name in IMPLEMENTATIONS} for kind in PASSES}


def _case_key(case: OperatorCase) -> list[Any]:
    return [case.out_channels, case.in_channels, case.kernel, case.batch]


def _result_bytes(result: Any) -> int:
    tensors = (result,) if isinstance(result, torch.Tensor) else result
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _cuda_extra_bytes(case: OperatorCase, name: str, kind: str, device: torch.device) -> int:
    tensors = make_tensors(case, device, seed=0)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = PASSES[kind](IMPLEMENTATIONS[name], case, tensors)
    torch.cuda.synchronize(device)
    return max(0, torch.cuda.max_memory_allocated(device) - before - _result_bytes(result))


def _resident_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS}: expected a line {field}, got none")


def _host_extra_bytes(measurement: tuple[int, list[Any]]) -> int | None:
    """Runs in a process of its own."""
    threads, (out_channels, in_channels, kernel, batch, name, kind) = measurement
    torch.set_num_threads(threads)
    ctypes.CDLL(None).mallopt(_MALLOPT_MMAP_THRESHOLD, 64 * 1024)
    case = OperatorCase(out_channels, in_channels, kernel, batch)
    device = torch.device("cpu")
    run_forward_backward(IMPLEMENTATIONS[name], _WARM_UP, make_tensors(_WARM_UP, device, seed=0))
    tensors = make_tensors(case, device, seed=0)
    try:
        _CLEAR_REFS.write_text("5")
        before = _resident_bytes("VmRSS")
        result = PASSES[kind](IMPLEMENTATIONS[name], case, tensors)
        peak = _resident_bytes("VmHWM")
    except OSError:
        return None
    return max(0, peak - before - _result_bytes(result))


def main() -> None:
    """Read measurements as JSON from stdin, run each in a fresh fork, print the bytes as a JSON list."""
    request = json.load(sys.stdin)
    measurements = [(request["threads"], key) for key in request["measurements"]]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(pool.map(_host_extra_bytes, measurements, chunksize=1)))


if __name__ == "__main__":
    main()
