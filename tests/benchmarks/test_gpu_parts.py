"""How the GPU run drives its parts: parts that break, what is kept, what runs again, and how the time is shared out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import run
from benchmarks.gpu.parts import BUILD, CALL_SECONDS, CALLS, PARTS, Part, Settings


def part_that_works(settings: Settings) -> dict[str, Any]:
    return {"rows": [1], "passed": True}


def part_that_finds_a_fault(settings: Settings) -> dict[str, Any]:
    return {"faults": ["a"], "passed": False}


def part_that_raises(settings: Settings) -> dict[str, Any]:
    settings.save({"rows": [1]})
    raise ValueError("expected this")


def part_that_dies(settings: Settings) -> dict[str, Any]:
    settings.save({"rows": [1, 2]})
    os.kill(os.getpid(), signal.SIGKILL)


def part_that_dies_at_once(settings: Settings) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)


def part_that_hangs(settings: Settings) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    settings.save({"child": child.pid})
    time.sleep(600)
    return {}


RunNamed = Callable[..., dict[str, Any]]


@pytest.fixture
def run_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunNamed:
    """Runs the parts above, named by what they do; the outcomes."""
    names = ("works", "finds_a_fault", "raises", "dies", "dies_at_once", "hangs")
    parts = {name: Part(f"{__name__}:part_that_{name}", 3.0 if name == "hangs" else 60.0, "") for name in names}
    monkeypatch.setattr(run, "PARTS", parts)
    monkeypatch.setattr(run, "digest", lambda: "abc")

    def call(*names: str, seconds: float = 100.0, again: bool = False) -> dict[str, Any]:
        file = tmp_path / "gpu.json"
        outcomes = run.run_parts(names, file, device="cpu", dry_run=True, seconds=seconds, commit=None, again=again)
        kept = run.read_results(file)["parts"]
        assert all(kept[name] == outcome for name, outcome in outcomes.items() if outcome["status"] != "not begun")
        return outcomes

    return call


@pytest.fixture
def begun(run_named: RunNamed, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that begin from now on, none of which does anything."""
    names: list[str] = []
    monkeypatch.setattr(run, "_run_part", lambda name, *_: names.append(name) or {"status": "done", "seconds": 0.0})
    return names


# --- parts that break ---


def test_a_broken_part_ends_alone(run_named: RunNamed) -> None:
    parts = run_named("raises", "dies", "finds_a_fault", "works")
    assert parts["raises"]["status"] == "failed"
    assert parts["raises"]["error"] == "ValueError: expected this"
    assert parts["raises"]["result"] == {"rows": [1]}
    assert parts["dies"]["status"] == "failed: exit status -9"
    assert parts["dies"]["result"] == {"rows": [1, 2]}
    assert parts["finds_a_fault"]["status"] == "failed"
    assert parts["works"]["status"] == "done" and parts["works"]["result"] == {"rows": [1]}


def test_a_part_that_hangs_is_ended_with_all_that_it_started(
    run_named: RunNamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LEAST_SECONDS", 1.0)
    parts = run_named("hangs")
    assert parts["hangs"]["status"] == "out of time"
    state = Path(f"/proc/{parts['hangs']['result']['child']}/stat")
    assert not state.exists() or state.read_text().split(")")[1].split()[0] == "Z"


def test_what_an_interrupted_run_left_is_not_taken_for_this_one(run_named: RunNamed, tmp_path: Path) -> None:
    (tmp_path / ".gpu-dies_at_once.json").write_text(json.dumps({"result": {"rows": ["old"]}, "status": "done"}))
    assert run_named("dies_at_once")["dies_at_once"] == {
        **{"status": "failed: exit status -9", "result": None, "sources": "abc"},
        "seconds": pytest.approx(0, abs=60),
    }


# --- what runs ---


def test_finished_parts_are_kept(run_named: RunNamed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [outcome["status"] for outcome in run_named("works", "raises").values()] == ["done", "failed"]
    begun: list[str] = []
    monkeypatch.setattr(run, "_run_part", lambda name, *_: begun.append(name) or {"status": "done", "seconds": 0.0})
    run_named("works", "finds_a_fault", "raises")
    assert begun == ["finds_a_fault", "raises"]
    assert run_named("works", "finds_a_fault", "raises") == {}
    run_named("works", again=True)
    assert begun[2:] == ["works"]


def test_parts_are_done_again_with_other_sources(
    run_named: RunNamed, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_named("works")
    monkeypatch.setattr(run, "digest", lambda: "other")
    run_named("works")
    run_named("works")
    assert begun == ["works", "works"]


def test_the_digest_is_of_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    seen = {run.digest()}
    for name in (
        "setup.py",
        "csrc/cuda/a.cuh",
        "csrc/sources.txt",
        "crossd_ops/a.py",
        "benchmarks/gpu/a.py",
        "tests/a.h",
    ):
        for text in ("1", "2"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
            seen.add(run.digest())
    assert len(seen) == 13
    (tmp_path / "crossd_ops" / "lib").mkdir()
    (tmp_path / "crossd_ops" / "lib" / "built.so").write_text("")
    assert run.digest() in seen


def test_parts_of_the_machine_begin_every_call(
    run_named: RunNamed, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {BUILD: Part("", 60.0, "", of_machine=True), "works": Part("", 60.0, ""), "raises": Part("", 60.0, "")}
    monkeypatch.setattr(run, "PARTS", parts)
    run_named("raises")
    run_named("works")  # a second call, on another machine perhaps
    assert begun == [BUILD, "raises", BUILD, "works"]
    assert run_named("works", "raises") == {}
    run_named(BUILD, again=True)
    assert begun[4:] == [BUILD]


def test_without_the_build_nothing_begins_and_what_is_kept_stays(
    run_named: RunNamed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_named("works")
    fails = Part(f"{__name__}:part_that_finds_a_fault", 60.0, "", of_machine=True)
    monkeypatch.setattr(run, "PARTS", {BUILD: fails, **run.PARTS})
    outcomes = run_named("works", "raises", again=True)
    assert {name: outcome["status"] for name, outcome in outcomes.items()} == {
        **{BUILD: "failed", "works": "not begun", "raises": "not begun"}
    }
    kept = run.read_results(tmp_path / "gpu.json")["parts"]
    assert kept["works"]["result"] == {"rows": [1]} and kept["raises"]["status"] == "not begun"


# --- time ---


def test_the_limits_of_each_call_add_up_below_nine_minutes() -> None:
    of_machine = {name for name, part in PARTS.items() if part.of_machine}
    assert {BUILD, *of_machine, *(name for names in CALLS.values() for name in names)} == set(PARTS)
    for names in CALLS.values():
        assert not of_machine & set(names)
        assert sum(PARTS[name].seconds for name in {*of_machine, *names}) <= CALL_SECONDS < 540
        assert sum(PARTS[name].takes_rest for name in names) == 1


def test_what_is_left_over_goes_to_the_part_that_takes_it(run_named: RunNamed, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, float] = {}
    monkeypatch.setattr(
        run, "_run_part", lambda *about: limits.update({about[0]: about[4]}) or {"status": "done", "seconds": 0.0}
    )
    first, last = Part("", 30.0, ""), Part("", 20.0, "")
    monkeypatch.setattr(run, "PARTS", {"works": first, "raises": Part("", 40.0, "", takes_rest=True), "dies": last})
    run_named("works", "raises", "dies", seconds=100.0)
    assert limits == {"works": 30.0, "raises": pytest.approx(80, abs=5), "dies": 20.0}
    run_named("works", "raises", "dies", seconds=60.0, again=True)
    assert limits == {"works": 30.0, "raises": pytest.approx(40, abs=5), "dies": 20.0}
    outcomes = run_named("works", "dies", seconds=3.0, again=True)
    assert {outcome["status"] for outcome in outcomes.values()} == {"not begun"}
