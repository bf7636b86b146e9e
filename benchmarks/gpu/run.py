"""Runs the parts one after the other, each in a process of its own, and keeps every result as soon as it is there.

A part that crashes, hangs or meets a broken CUDA context ends alone: its process, and all that it started, is killed at
its limit, and what it had saved stays. The file can be given to a later run, which then runs only what it lacks: what
is not done, or was done with other sources. What the parts print goes into a log beside it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import BUILD, PARTS, Settings
from benchmarks.gpu.programs import ROOT

SCHEMA = 1
_FINISHED = "done"
_LEAST_SECONDS = 5.0  # with less left of the whole run's time no part begins
_SOURCES = ("*.py", *(f"{folder}/**/*" for folder in ("csrc", "crossd_ops", "benchmarks", "tests")))
_SUFFIXES = (".py", ".h", ".cpp", ".cu", ".cuh", ".txt")


def run_parts(
    names: Iterable[str],
    file: Path,
    *,
    device: str,
    dry_run: bool,
    seconds: float,
    commit: str | None,
    again: bool = False,
) -> dict[str, Any]:
    """Runs the parts named that `file` does not hold, or all of them `again`, behind those that begin every call.

    Results are written into `file` part by part; returned are the outcomes of this run. A part that does not begin
    leaves what `file` holds of it.
    """
    results = read_results(file) if file.exists() else {"schema": SCHEMA, "dry_run": dry_run, "parts": {}}
    if results["dry_run"] != dry_run:
        raise ValueError(f"{file}: expected results of a run with dry_run={dry_run}, got {results['dry_run']}")
    kept, sources, outcomes = results["parts"], digest(), {}
    remaining = _choose(set(names), kept, sources, again)
    deadline = time.monotonic() + seconds
    while remaining:
        name = remaining.pop(0)
        limit = _limit(name, remaining, deadline - time.monotonic())
        # Without a library of these sources an older one, or the reference, would be tested and measured.
        built = outcomes.get(BUILD, {"status": _FINISHED})["status"] == _FINISHED
        if built and limit >= _LEAST_SECONDS:
            print(f"{name}: {PARTS[name].about} (at most {limit:.0f} s)", file=sys.stderr, flush=True)
            outcomes[name] = kept[name] = _run_part(name, file, device, dry_run, limit, commit) | {"sources": sources}
        else:
            outcomes[name] = {"status": "not begun", "seconds": 0.0, "result": None}
            kept.setdefault(name, outcomes[name])
        write_json(results, file)
        status, spent = outcomes[name]["status"], outcomes[name]["seconds"]
        print(f"{name}: {status} after {spent:.1f} s", file=sys.stderr, flush=True)
    return outcomes


def _choose(names: set[str], kept: dict[str, Any], sources: str, again: bool) -> list[str]:
    """Those of the machine, then those of `names` that are to be run; nothing where nothing is."""
    chosen = {name for name in names if again or not _is_done(kept.get(name), sources)}
    return [name for name, part in PARTS.items() if name in chosen or (part.of_machine and chosen)]


def _limit(name: str, later: list[str], left: float) -> float:
    own = min(PARTS[name].seconds, left)
    return max(own, left - sum(PARTS[other].seconds for other in later)) if PARTS[name].takes_rest else own


def _is_done(outcome: dict[str, Any] | None, sources: str) -> bool:
    return outcome is not None and outcome["status"] == _FINISHED and outcome.get("sources") == sources


def digest() -> str:
    """Of the sources that results depend on, also where the tree is no git checkout."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in ROOT.glob(pattern) if path.suffix in _SUFFIXES):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def read_results(file: Path) -> dict[str, Any]:
    """Results as `run_parts` writes them; ValueError for anything else."""
    try:
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema = results["schema"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected results of benchmarks.gpu, got another file ({error})") from None
    if schema != SCHEMA or not isinstance(results.get("parts"), dict):
        raise ValueError(f"{file}: expected schema {SCHEMA}, got {schema}")
    return results


def write_json(value: dict[str, Any], file: Path) -> None:
    """At once: an interruption leaves the file before or the file after, never half of it."""
    scratch = file.with_name(file.name + ".new")
    scratch.write_text(json.dumps(value, indent=1, allow_nan=True) + "\n", encoding="utf-8")
    os.replace(scratch, file)


def _run_part(name: str, file: Path, device: str, dry_run: bool, limit: float, commit: str | None) -> dict[str, Any]:
    # A fork, not a fresh interpreter: importing torch ten times would cost a good part of the time. This process only
    # has torch imported, never used, so that its children may initialize CUDA and threads.
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(name, file, device, dry_run, limit, commit)
    )
    saved = _saved_file(file, name)
    saved.unlink(missing_ok=True)  # of a run that was ended from outside
    start = time.monotonic()
    process.start()
    assert process.pid is not None
    try:
        process.join(limit)
        timed_out = process.is_alive()
    finally:
        # The part's own process group, for what it started and left running too.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        process.join()
    seconds = round(time.monotonic() - start, 2)
    outcome = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {"result": None}
    saved.unlink(missing_ok=True)
    if timed_out:
        outcome["status"] = "out of time"
    elif "status" not in outcome or process.exitcode != 0:
        outcome["status"] = f"failed: exit status {process.exitcode}" if "error" not in outcome else "failed"
    return {"status": outcome.pop("status"), "seconds": seconds, **outcome}


def _saved_file(file: Path, name: str) -> Path:
    return file.with_name(f".{file.stem}-{name}.json")


def _log_file(file: Path) -> Path:
    return file.with_suffix(".log")


def _child(name: str, file: Path, device: str, dry_run: bool, limit: float, commit: str | None) -> None:
    os.setpgrp()
    log = os.open(_log_file(file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    print(f"--- {name}", flush=True)
    saved = _saved_file(file, name)

    def save(result: dict[str, Any], **about: Any) -> None:
        write_json({"result": result, **about}, saved)

    try:
        result = PARTS[name].load()(Settings(device, dry_run, limit, commit, save))
    except BaseException as error:
        traceback.print_exc()
        partial = json.loads(saved.read_text(encoding="utf-8"))["result"] if saved.exists() else None
        save(partial, status="failed", error=f"{type(error).__name__}: {error}"[:4000])
        os._exit(1)
    save(result, status=_FINISHED if result.pop("passed", True) else "failed")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not the parent's clean-up, which is a fork's too
