"""Parts that check: each returns JSON values, with `passed` where it can find a fault."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import Settings
from benchmarks.gpu.programs import ROOT, find, is_installed, run

_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_CUDA_TESTS = (
    "tests/convolution/test_cuda_convolution.py",
    "tests/kernels/test_cuda_device.py",
    "tests/layers/test_cuda_layers.py",
    "tests/operators/test_graph_capture.py",
)
_KEPT_LINES = 60
_SECONDS_BETWEEN_SAVES = 1.0


def self_test(settings: Settings) -> dict[str, Any]:
    """The package's own check, which needs no test tools."""
    import crossd_ops

    report = crossd_ops.self_test(settings.device)
    return {"checks": len(report.checks), "table": str(report).splitlines(), "passed": report.passed}


def cuda_tests(settings: Settings) -> dict[str, Any]:
    """Tests of the operators on the GPU; a dry run has the CPU stand in, for a few of them."""
    few = ["-k", "nothing_to_do or nan_stays or rotation_shift"] if settings.dry_run else []
    return _pytest([*_CUDA_TESTS, *few], settings, workers=1 if settings.dry_run else len(_CUDA_TESTS))


def suite(settings: Settings) -> dict[str, Any]:
    """Every other test of the package; a dry run has one file."""
    if settings.dry_run:
        return _pytest(["tests/shift/test_reference.py"], settings, workers=1)
    others = [f"--ignore={path}" for path in _CUDA_TESTS]
    return _pytest(["tests", *others], settings, workers=len(os.sched_getaffinity(0)))


def sanitizer(settings: Settings) -> dict[str, Any]:
    """Each tool over benchmarks.gpu.kernel_calls, at the same time; what a tool found is kept when it ends."""
    calls = [sys.executable, "-m", "benchmarks.gpu.kernel_calls", "--device", settings.device]
    if settings.dry_run:
        status, lines = run([*calls, "--few"])
        return {"tools": {}, "output": lines[-3:], "passed": status == 0}
    program = find("compute-sanitizer")
    if program is None:
        return {"tools": {}, "faults": ["compute-sanitizer: not found"], "passed": False}
    tools: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    with ThreadPoolExecutor(len(_TOOLS)) as pool:
        running = {pool.submit(_sanitize, program, name, calls): name for name in _TOOLS}
        settings.save({"tools": tools, "unfinished": list(_TOOLS)})
        for future in as_completed(running):
            name = running[future]
            tools[name] = future.result()
            if tools[name]["output"]:
                faults.append(f"{name}: exit status {tools[name]['exit_status']}: {tools[name]['output'][-1]}")
            unfinished = [other for other in _TOOLS if other not in tools]
            settings.save({"tools": tools, "faults": faults, "unfinished": unfinished})
    return {"tools": tools, "faults": faults, "passed": not faults}


def _sanitize(program: str, tool: str, calls: list[str]) -> dict[str, Any]:
    """Exit status and summary of one tool; its output where it is not clean."""
    start = time.monotonic()
    # Every allocation its own: a caching allocator would hide what lies beside a tensor.
    status, lines = run([program, "--tool", tool, "--error-exitcode", "86", *calls], PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    clean = status == 0 and any(line.endswith("calls") for line in lines)
    return {
        "exit_status": status,
        "seconds": round(time.monotonic() - start, 1),
        "summary": [line for line in lines if "SUMMARY" in line],
        "output": [] if clean else ([*lines[:_KEPT_LINES], *lines[_KEPT_LINES:][-_KEPT_LINES:]] or ["no output"]),
    }


def kernels(settings: Settings) -> dict[str, Any]:
    """The kernels that the calls under the sanitizer launch, by torch's profiler, and those of the sources they do not.

    A part of its own: a profiler that fails takes nothing along.
    """
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.gpu.kernel_calls import all_calls, kernel_names

    names = kernel_names()
    if settings.dry_run:
        return {"kernels": sorted(names)}
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _, call in all_calls(torch.ops.crossd_ops, torch.device(settings.device), few=False):
            call()
        torch.cuda.synchronize()
    seen = {event.name for event in profiler.events()}
    if not seen:
        return {"kernels": sorted(names), "faults": ["the profiler saw no kernel at all"], "passed": False}
    launched = {name for name in names if any(re.search(rf"\b{name}\b", event) for event in seen)}
    instantiations = sorted(event for event in seen if any(re.search(rf"\b{name}\b", event) for name in launched))
    missing = sorted(names - launched)
    found = {"kernels": sorted(names), "instantiations": instantiations, "not_launched": missing}
    return {**found, "passed": not missing}


def _pytest(arguments: list[str], settings: Settings, *, workers: int) -> dict[str, Any]:
    """Counts, faults and skipped tests, saved as they come; what pytest prints goes into the log."""
    if not is_installed("pytest"):
        return {"faults": ["pytest: not installed; the part self_test needs none"], "passed": False}
    from benchmarks.gpu.pytest_record import summarize

    parallel = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 and is_installed("xdist") else []
    # A file whose imports are missing here is one fault among others.
    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", *parallel]
    environment = {**os.environ, "CROSSD_TEST_DEVICE": settings.device, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record")
        command = [sys.executable, "-m", "benchmarks.gpu.pytest_record", str(record), *options, *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        while process.poll() is None:
            time.sleep(_SECONDS_BETWEEN_SAVES)
            settings.save({"parallel": parallel, **summarize(record)})
        found = summarize(record)
    if process.returncode != 0 and not found["faults"]:
        found["faults"] = [f"pytest: exit status {process.returncode}; the log says why"]
    return {"parallel": parallel, **found, "passed": process.returncode == 0}
