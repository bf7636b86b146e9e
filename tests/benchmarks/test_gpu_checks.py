"""The parts of the GPU run that check: what the sanitizers and the tests come to, also where they are cut off."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import checks, kernel_calls
from benchmarks.gpu.parts import Settings
from benchmarks.gpu.pytest_record import summarize

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]

# --- compute-sanitizer ---


def sanitize(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result with a shell script as the tool, whose name is its second argument; and what was saved on the way."""
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{tool}\n")
    program.chmod(0o755)
    monkeypatch.setattr(checks, "find", lambda name: str(program))
    saved: list[dict[str, Any]] = []
    save = lambda result: saved.append({**result, "tools": list(result["tools"])})  # noqa: E731
    return checks.sanitizer(Settings("cuda", False, 10.0, None, save)), saved


@pytest.mark.parametrize(
    ("tool", "faults"),
    [
        ("echo '96 calls'", []),
        ("echo '96 calls'; test $2 != racecheck || exit 86", ["racecheck: exit status 86: 96 calls"]),
        ("test $2 = racecheck || echo '96 calls'", ["racecheck: exit status 0: no output"]),
    ],
)
def test_the_sanitizer_part_sees_faults(
    tool: str, faults: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = sanitize(tool, tmp_path, monkeypatch)
    assert result["passed"] is not bool(faults) and result["faults"] == faults
    assert sorted(result["tools"]) == sorted(TOOLS)


def test_a_device_that_the_sanitizer_refuses_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = sanitize("echo 'Device not supported'", tmp_path, monkeypatch)
    assert sorted(result["faults"]) == sorted(f"{tool}: exit status 0: Device not supported" for tool in TOOLS)


def test_each_tool_is_kept_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is the slowest here, and the others say more than a pipe holds."""
    tool = "test $2 = memcheck && sleep 2 || head -c 1000000 /dev/zero | tr '\\0' '\\n'; echo '96 calls'"
    result, saved = sanitize(tool, tmp_path, monkeypatch)
    assert result["passed"]
    assert saved[0]["unfinished"] == TOOLS and saved[0]["tools"] == []
    assert saved[3]["unfinished"] == ["memcheck"] and len(saved[3]["tools"]) == 3
    assert saved[-1]["unfinished"] == []


def test_without_the_sanitizer_the_part_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find", lambda name: None)
    result = checks.sanitizer(Settings("cuda", False, 10.0, None, lambda result: None))
    assert not result["passed"] and result["faults"] == ["compute-sanitizer: not found"]


@pytest.mark.parametrize("seen", ["all", "one less", "none"])
def test_kernels_that_are_not_launched_are_named(seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(kernel_calls.kernel_names())
    launched = {"all": names, "one less": names[1:], "none": []}[seen]
    events = [SimpleNamespace(name=f"void crossd_ops::{name}<float>(Problem)") for name in launched]
    profiler = contextlib.nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(kernel_calls, "all_calls", lambda *arguments, few: [("a call", lambda: None)])
    result = checks.kernels(Settings("cpu", False, 10.0, None, lambda result: None))
    assert result["passed"] is (seen == "all")
    assert result.get("not_launched", []) == ([names[0]] if seen == "one less" else [])
    assert result.get("faults", []) == (["the profiler saw no kernel at all"] if seen == "none" else [])


# --- pytest ---

TESTS = """
import sys, time
import pytest

def test_passes(): pass
def test_fails(): assert 1 == 2, "numbers differ"
def test_skips(): pytest.skip("no reason")
@pytest.mark.xfail
def test_is_expected_to_fail(): raise ValueError

@pytest.fixture
def broken(): raise KeyError("in the fixture")
def test_is_not_set_up(broken): pass

@pytest.fixture
def breaks_after(): yield; raise OSError("at the end")
def test_breaks_after(breaks_after): pass
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "loadfile"]], ids=["one process", "two workers"])
def test_outcomes_are_recorded(workers: list[str], tmp_path: Path) -> None:
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_import.py").write_text("import a_package_that_is_missing\n")
    (tmp_path / "test_optional.py").write_text("import pytest\npytest.importorskip('another_one')\n")
    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--rootdir", tmp_path, *workers]
    command = [sys.executable, "-m", "benchmarks.gpu.pytest_record", tmp_path / "record", *options, tmp_path]
    process = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    found = summarize(tmp_path / "record")
    assert process.returncode == 1, process.stdout + process.stderr
    assert found["counts"] == {"passed": 1, "failed": 4, "skipped": 2, "xfailed": 1}
    assert sorted(found["faults"]) == [
        "test_import.py: ModuleNotFoundError: No module named 'a_package_that_is_missing'",
        "test_some.py::test_breaks_after: OSError: at the end",
        "test_some.py::test_fails: AssertionError: numbers differ",
        "test_some.py::test_is_not_set_up: KeyError: 'in the fixture'",
    ]
    assert sum(found["skipped"].values()) == 2 and any("another_one" in reason for reason in found["skipped"])
    assert "def test_fails" in found["failures"]["test_some.py::test_fails"]
    assert found["unfinished"] == []


def test_tests_that_are_cut_off_have_named_what_failed_and_what_ran(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS + "\ndef test_is_slow(): time.sleep(4)\n")
    (tmp_path / "test_import.py").write_text("import a_package_that_is_missing\n")

    class CutOff(Exception):
        pass

    def save(found: dict[str, Any]) -> None:
        if found["unfinished"] == ["test_some.py::test_is_slow"]:
            raise CutOff(found)

    settings = Settings("cpu", True, 100.0, None, save)
    with pytest.raises(CutOff) as error:
        checks._pytest(["--rootdir", str(tmp_path), str(tmp_path)], settings, workers=1)
    found = error.value.args[0]
    assert "test_some.py::test_fails: AssertionError: numbers differ" in found["faults"]
    assert found["counts"] == {"passed": 1, "failed": 4, "skipped": 1, "xfailed": 1}


def test_the_suite_has_a_worker_for_each_core_and_leaves_out_what_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], int]] = []
    monkeypatch.setattr(checks, "_pytest", lambda arguments, _, workers: started.append((arguments, workers)) or {})
    settings = Settings("cuda", False, 10.0, None, lambda result: None)
    checks.cuda_tests(settings)
    checks.suite(settings)
    (first, _), (rest, workers) = started
    assert workers == len(os.sched_getaffinity(0))
    assert len(first) == 4 and all((ROOT / path).exists() for path in first)
    assert rest == ["tests", *(f"--ignore={path}" for path in first)]


def test_half_a_line_of_a_record_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "record").write_text('["a", "failed", "E   wrong"]\n["b", "passed", ""]\n["c", "fai')
    found = summarize(tmp_path / "record")
    assert found["faults"] == ["a: wrong"] and found["counts"] == {"failed": 1, "passed": 1}
    assert summarize(tmp_path / "missing")["counts"] == {}


def test_tests_without_pytest_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "is_installed", lambda module: False)
    result = checks.suite(Settings("cuda", False, 10.0, None, lambda result: None))
    assert not result["passed"] and result["faults"] == ["pytest: not installed; the part self_test needs none"]
