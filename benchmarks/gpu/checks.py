"""Parts that build and check: each returns JSON values, with `passed` where it can find a fault."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import Settings

ROOT = Path(__file__).resolve().parents[2]
_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_CUDA_TESTS = ("tests/test_cuda_device.py", "tests/test_cuda_layers.py", "tests/test_graph_capture.py")
_PACKAGES = ("numpy", "matplotlib", "pytest", "pytest-xdist", "hypothesis", "setuptools", "ninja", "pybind11", "triton")
_WORKERS = 12  # of the suite, each with its own CUDA context
_KEPT_LINES = 60


def build(settings: Settings) -> dict[str, Any]:
    """Compiles in place for this GPU alone; a dry run, which must not touch the installed library, only looks."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    result: dict[str, Any] = {"command": " ".join(["python", *command[1:]]), "tools": _tools()}
    if settings.dry_run:
        return result
    major, minor = torch.cuda.get_device_capability()
    environment = {"CROSSD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    start = time.monotonic()
    status, lines = _run(command, **environment)
    return {
        **result,
        "environment": environment,
        "build_seconds": round(time.monotonic() - start, 1),
        "warnings": sum("warning" in line for line in lines),
        "output": lines[-_KEPT_LINES:] if status else lines[-3:],
        "passed": status == 0,
    }


def environment(settings: Settings) -> dict[str, Any]:
    """Commit, GPU, driver and versions."""
    import crossd_ops
    from benchmarks.environment import describe_environment

    device = torch.device(settings.device)
    facts = describe_environment(device)
    if settings.commit:
        facts["git_commit"] = settings.commit
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    facts |= {"packages": versions, "tools": _tools()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["multiprocessors"] = properties.multi_processor_count
        facts["l2_bytes"] = getattr(properties, "L2_cache_size", None)
        facts["gpus"] = torch.cuda.device_count()
        facts["cudnn"] = torch.backends.cudnn.version()
    return {**facts, "passed": crossd_ops.backend(device) == "compiled"}


def self_test(settings: Settings) -> dict[str, Any]:
    """The package's own check, which needs no test tools."""
    import crossd_ops

    report = crossd_ops.self_test(settings.device)
    return {"checks": len(report.checks), "table": str(report).splitlines(), "passed": report.passed}


def cuda_tests(settings: Settings) -> dict[str, Any]:
    """Tests of the operators on the GPU; a dry run has the CPU stand in, for a few of them."""
    few = ["-k", "nothing_to_do or nan_stays or rotation_shift"] if settings.dry_run else []
    return _pytest([*_CUDA_TESTS, *few], settings, workers=1)


def suite(settings: Settings) -> dict[str, Any]:
    """Every test of the package; a dry run has one file."""
    arguments = ["tests/test_reference.py"] if settings.dry_run else ["tests"]
    return _pytest(arguments, settings, workers=1 if settings.dry_run else _WORKERS)


def sanitizer(settings: Settings) -> dict[str, Any]:
    """Each tool over benchmarks.gpu.kernel_calls, at the same time; and which kernels these calls launch."""
    from benchmarks.gpu.kernel_calls import kernel_names

    calls = [sys.executable, "-m", "benchmarks.gpu.kernel_calls", "--device", settings.device]
    result: dict[str, Any] = {"kernels": sorted(kernel_names()), "tools": {}}
    if settings.dry_run:
        status, lines = _run([*calls, "--few"])
        return {**result, "output": lines[-3:], "passed": status == 0}
    result |= _launched_kernels(settings)
    tool = _find("compute-sanitizer")
    if tool is None:
        return {**result, "output": ["compute-sanitizer: not found"], "passed": False}
    # Every allocation its own: a caching allocator would hide what lies beside a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    running = {
        name: subprocess.Popen(
            [tool, "--tool", name, "--error-exitcode", "86", *calls],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )
        for name in _TOOLS
    }  # fmt: skip
    for name, process in running.items():
        output = process.communicate()[0].splitlines()
        summary = [line for line in output if "SUMMARY" in line]
        clean = process.returncode == 0 and any(line.endswith("calls") for line in output)
        result["tools"][name] = {
            "exit_status": process.returncode,
            "summary": summary,
            "output": [] if clean else output[:_KEPT_LINES],
        }
        settings.save(result)
    passed = all(found["exit_status"] == 0 and not found["output"] for found in result["tools"].values())
    return {**result, "passed": passed and not result["not_launched"]}


def _launched_kernels(settings: Settings) -> dict[str, Any]:
    """The kernels of the list by torch's profiler, each instantiation, and those of the sources that were not."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.gpu.kernel_calls import all_calls, kernel_names

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _, call in all_calls(torch.ops.crossd_ops, torch.device(settings.device), few=False):
            call()
        torch.cuda.synchronize()
    seen = {event.name for event in profiler.events()}
    launched = {name for name in kernel_names() if any(re.search(rf"\b{name}\b", event) for event in seen)}
    instantiations = sorted(event for event in seen if any(re.search(rf"\b{name}\b", event) for name in launched))
    return {"instantiations": instantiations, "not_launched": sorted(kernel_names() - launched)}


def _pytest(arguments: list[str], settings: Settings, *, workers: int) -> dict[str, Any]:
    if not _installed("pytest"):
        return {"output": ["pytest: not installed; the part self_test needs none"], "passed": False}
    parallel = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 and _installed("xdist") else []
    environment = {"CROSSD_TEST_DEVICE": settings.device, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", *parallel, *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    kept = time.monotonic()
    for line in process.stdout:
        lines.append(line.rstrip())
        if time.monotonic() > kept + 5:  # what a run that is cut off had come to
            kept = time.monotonic()
            settings.save({"output": lines[-_KEPT_LINES:]})
    status = process.wait()
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1])}
    faults = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    skipped = [line for line in lines if line.startswith("SKIPPED")]
    output = lines[-_KEPT_LINES:] if status else lines[-1:]
    return {"counts": counts, "faults": faults, "skipped": skipped, "output": output, "passed": status == 0}


def _installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _find(program: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, or where CUDA_HOME says."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / folder for folder in ("bin", "compute-sanitizer")]
    return shutil.which(program) or next((str(path) for folder in folders if (path := folder / program).exists()), None)


def _tools() -> dict[str, str | None]:
    """Version of each program that the run uses, None where it is not there."""
    versions: dict[str, str | None] = {}
    for program in ("c++", "nvcc", "compute-sanitizer", "ninja"):
        path = _find(program)
        lines = _run([path, "--version"])[1] if path else []
        numbered = [line.strip() for line in lines if re.search(r"\d+\.\d+", line)]
        versions[program] = numbered[0] if numbered else None
    return versions


def _run(command: list[str], **environment: str) -> tuple[int, list[str]]:
    process = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process.returncode, process.stdout.splitlines()
