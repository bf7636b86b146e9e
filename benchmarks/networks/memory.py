"""Memory of a training step: its peak, and what autograd keeps between forward and backward.

The peak is that beyond parameters, state of the optimizer and images, so gradients count. It is measured as memory.py
measures that of an operator: resident memory's high-water mark, in a process of its own for each network.
`python -m benchmarks.networks.memory` is that process.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import _CLEAR_REFS, _MALLOPT_MMAP_THRESHOLD, _resident_bytes
from benchmarks.networks.step import NetworkCase, TrainingStep

# Batch normalisation of a single pixel needs two samples.
_WARM_UP_BATCH = 2


def step_memory(case: NetworkCase, variant: str, device: torch.device) -> dict[str, int | None]:
    """Bytes as `peak_bytes`, None where this system cannot say, and `kept_bytes`."""
    if device.type == "cuda":
        return _measure_on_cuda(case, variant, device)
    request = {"case": dataclasses.asdict(case), "variant": variant, "threads": torch.get_num_threads()}
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks.networks.memory"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    if completed.returncode:
        raise RuntimeError(
            f"memory of {case.label}, {variant}: expected status 0, got {completed.returncode}:\n{completed.stderr}"
        )
    answer: dict[str, int | None] = json.loads(completed.stdout)
    return answer


class KeptBytes:
    """Counts, inside a `with` block, the memory of tensors saved for backward, each storage once, parameters apart."""

    def __init__(self, model: torch.nn.Module) -> None:
        # By the storage itself, as tensors without memory have no address.
        self._parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._storages: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._parameters:
            self._storages[storage._cdata] = storage.nbytes()
        return tensor

    def __enter__(self) -> KeptBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    @property
    def total(self) -> int:
        return sum(self._storages.values())


def _measure_on_cuda(case: NetworkCase, variant: str, device: torch.device) -> dict[str, int | None]:
    step = TrainingStep(case, variant, device, seed=0)
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with KeptBytes(step.model) as kept:
        step()
    torch.cuda.synchronize(device)
    return {"peak_bytes": torch.cuda.max_memory_allocated(device) - before, "kept_bytes": kept.total}


def _measure_on_host(case: NetworkCase, variant: str) -> dict[str, int | None]:
    # Blocks that a step frees are unmapped, so that resident memory is what lives.
    ctypes.CDLL(None).mallopt(_MALLOPT_MMAP_THRESHOLD, 64 * 1024)
    step = TrainingStep(case, variant, torch.device("cpu"), seed=0)
    step.set_batch(_WARM_UP_BATCH)
    step()
    step.set_batch(case.batch)
    peak: int | None = None
    with KeptBytes(step.model) as kept:
        try:
            _CLEAR_REFS.write_text("5")
            before = _resident_bytes("VmRSS")
            step()
            peak = _resident_bytes("VmHWM") - before
        except OSError:
            # Not Linux, or a kernel that does not reset the mark.
            step()
    return {"peak_bytes": peak, "kept_bytes": kept.total}


def main() -> None:
    """Read a case as JSON from stdin, measure it, print the bytes as JSON."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    print(json.dumps(_measure_on_host(NetworkCase(**request["case"]), request["variant"])))


if __name__ == "__main__":
    main()
