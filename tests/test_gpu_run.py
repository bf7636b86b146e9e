"""The GPU run: all of it on the CPU in tiny sizes, parts that break, results that are kept, and the report."""

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
import torch
from emulator.build import why_not

pytest.importorskip("matplotlib")

from benchmarks.gpu import checks, run
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.alternatives import matrix_slice
from benchmarks.gpu.kernel_calls import all_calls, kernel_names
from benchmarks.gpu.parts import PARTS, Part, Settings
from benchmarks.gpu.report import format_report
from crossd_ops import reference

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the whole script, as it is started on a GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    process = subprocess.run(
        ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run", "--commit", "abc"],
        env={**os.environ, "OUT": str(folder), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    log = folder / "gpu.log"
    assert process.returncode == 0, process.stdout + process.stderr + (log.read_text()[-4000:] if log.exists() else "")
    return folder / "gpu.json"


def test_every_part_runs(dry_run: Path) -> None:
    results = json.loads(dry_run.read_text())
    assert list(results["parts"]) == list(PARTS)
    assert {outcome["status"] for outcome in results["parts"].values()} == {"done"}
    found = {name: outcome["result"] for name, outcome in results["parts"].items()}
    assert found["environment"]["git_commit"] == "abc"
    assert found["environment"]["backend"] == "compiled"
    assert found["cuda_tests"]["counts"]["passed"] > 3
    assert found["suite"]["counts"]["passed"] > 3
    assert set(found["sanitizer"]["kernels"]) == kernel_names()
    assert found["bandwidth"]["copy_bytes_per_second"] > 0
    operators = {row["operator"] for row in found["operators"]["rows"]}
    assert operators == {
        *("fourier_shift_slice", "fourier_shift", "rotation_head", "rotation_shift", "predict_shift"),
        *("crossd_conv2d", "crossd_conv3d"),
    }
    for row in found["operators"]["rows"]:
        assert row["deviation"] < (0.05 if row["dtype"] == "bfloat16" else 1e-4), row
        assert all(candidate["seconds"] > 0 for candidate in row["candidates"].values()), row
    assert {*found["networks"]["rows"][0]["variants"]} == {"plain", "fused", "expansion"}
    assert not [path for path in dry_run.parent.iterdir() if path.name not in ("gpu.json", "gpu.log")]


def test_report(dry_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(dry_run), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    for title in ("Parts", "Operators", "Losing shapes", "Training steps", "Methods of the per-sample convolution"):
        assert f"## {title}\n" in text
    assert "A dry run" in text
    for name in ("gpu_bandwidth", "gpu_roofline", "gpu_networks"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
        assert f"({name}.png)" in text


def operator_row(**seconds: float) -> dict[str, Any]:
    """A row of an operator that moves 850 bytes, with the times of its candidates."""
    candidates = {name: {"seconds": value, "kernel_seconds": value} for name, value in seconds.items()}
    return {
        **{"operator": "shift", "shape": "1x1", "dtype": "float32", "pass": "forward", "other_work": ["plain"]},
        **{"floor_bytes": 850, "multiply_adds": 10, "deviation": 0.0, "candidates": candidates},
    }


def losing(rows: list[dict[str, Any]]) -> list[str]:
    parts = {"operators": {"rows": rows}, "bandwidth": {"copy_bytes_per_second": 1000.0}}
    outcomes = {name: {"status": "done", "seconds": 1.0, "result": result} for name, result in parts.items()}
    report = format_report({"dry_run": False, "parts": outcomes})
    return [line for line in report.partition("## Losing shapes")[2].splitlines() if line.startswith("- ")]


def test_losing_shapes_are_listed() -> None:
    assert losing([operator_row(fused=0.9, expansion=2.0, plain=0.1)]) == []
    assert losing([operator_row(fused=1.01, expansion=2.0)]) == [
        "- shift 1x1 float32, forward: 84% of the copy bandwidth"
    ]
    slower = losing([operator_row(fused=0.9, expansion=2.0, matrix=0.45)])
    assert slower == ["- shift 1x1 float32, forward: matrix takes 0.50 of its time"]
    row = operator_row(fused=0.9, expansion=2.0)
    row["candidates"]["expansion"] = {"error": "out of memory"}
    assert losing([row]) == ["- shift 1x1 float32, forward: expansion: out of memory"]


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


def part_that_hangs(settings: Settings) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    settings.save({"child": child.pid})
    time.sleep(600)
    return {}


@pytest.fixture
def run_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the parts above, named by what they do."""
    names = ("works", "finds_a_fault", "raises", "dies", "hangs")
    parts = {name: Part(f"{__name__}:part_that_{name}", 6.0 if name == "hangs" else 60.0, "") for name in names}
    monkeypatch.setattr(run, "PARTS", parts)

    def call(*names: str, seconds: float = 100.0) -> dict[str, Any]:
        file = tmp_path / "gpu.json"
        results = run.run_parts(list(names) or None, file, device="cpu", dry_run=True, seconds=seconds, commit=None)
        assert run.read_results(file) == results
        return results["parts"]

    return call


def test_a_broken_part_ends_alone(run_named: Callable[..., dict[str, Any]]) -> None:
    parts = run_named("raises", "dies", "finds_a_fault", "works")
    assert parts["raises"]["status"] == "failed"
    assert parts["raises"]["error"] == "ValueError: expected this"
    assert parts["raises"]["result"] == {"rows": [1]}
    assert parts["dies"]["status"] == "failed: exit status -9"
    assert parts["dies"]["result"] == {"rows": [1, 2]}
    assert parts["finds_a_fault"]["status"] == "failed"
    assert parts["works"] == {"status": "done", "seconds": parts["works"]["seconds"], "result": {"rows": [1]}}


def test_a_part_that_hangs_is_ended_with_all_that_it_started(run_named: Callable[..., dict[str, Any]]) -> None:
    parts = run_named("hangs")
    assert parts["hangs"]["status"] == "out of time"
    state = Path(f"/proc/{parts['hangs']['result']['child']}/stat")
    assert not state.exists() or state.read_text().split(")")[1].split()[0] == "Z"


def test_finished_parts_are_kept(run_named: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    run_named("works", "raises")
    begun: list[str] = []
    monkeypatch.setattr(run, "_run_part", lambda name, *_: begun.append(name) or {"status": "done", "seconds": 0.0})
    run_named()
    assert begun == ["finds_a_fault", "raises", "dies", "hangs"]
    run_named("works")
    assert begun[-1] == "works"
    assert {outcome["status"] for outcome in run_named("hangs", seconds=1.0).values()} == {"done", "not begun"}


@pytest.mark.parametrize("text", ["nothing", "[]", '{"schema": 0, "parts": {}}'])
def test_other_files_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    for arguments in (["report", str(file)], ["run", "--dry-run", "--out", str(file)]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "other.json: expected" in capsys.readouterr().err
    assert file.read_text() == text


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--parts", "build,paint"])
    assert "got paint" in capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_matrix_form_is_the_slice(size: int) -> None:
    weight, shift = torch.randn(2, 3, *[size] * 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    result = matrix_slice(weight, shift, dtype=torch.float64)
    torch.testing.assert_close(result, reference.fourier_shift_slice(weight, shift), rtol=0, atol=1e-13)


def test_matrix_form_refuses_even_sizes() -> None:
    with pytest.raises(ValueError, match="expected odd kernel sizes, got 4"):
        matrix_slice(torch.randn(1, 1, 4, 4, 4), torch.randn(1, 3), dtype=torch.float32)


def test_each_call_of_the_short_list_launches_its_kernels() -> None:
    """In the emulator, which counts launches; on a GPU the sanitizer part also names the kernels that had none."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    from emulator.harness import EmulatedBackend

    assert len(kernel_names()) == 10
    backend = EmulatedBackend()
    for name, call in all_calls(backend, torch.device("cpu"), few=True):
        if name.startswith("fourier_shift"):
            before = backend.statistics()["launches"]
            call()
            launches = backend.statistics()["launches"] - before
            assert launches == 3, f"{name}: expected forward, backward and the sum of its parts, got {launches}"


@pytest.mark.parametrize(
    ("tool", "launched", "passed"),
    [
        ("echo '96 calls'", True, True),
        ("echo '96 calls'", False, False),
        ("echo '96 calls'; test $2 != racecheck || exit 86", True, False),
        ("echo 'Device not supported'", True, False),
    ],
)
def test_the_sanitizer_part_sees_faults(
    tool: str, launched: bool, passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\n{tool}\n")
    program.chmod(0o755)
    kernels = {"instantiations": [], "not_launched": [] if launched else ["forward_rows"]}
    monkeypatch.setattr(checks, "_find", lambda name: str(program))
    monkeypatch.setattr(checks, "_launched_kernels", lambda settings: kernels)
    saved: list[dict[str, Any]] = []
    result = checks.sanitizer(Settings("cuda", False, 10.0, None, saved.append))
    assert result["passed"] is passed
    assert list(result["tools"]) == ["memcheck", "racecheck", "initcheck", "synccheck"]
    assert len(saved) == 4
