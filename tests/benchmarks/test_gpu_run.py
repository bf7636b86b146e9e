"""The GPU run: all of it on the CPU in tiny sizes, as it is started on a GPU, and the report on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator.build import why_not

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.kernel_calls import CHANNELS, all_calls, kernel_names
from benchmarks.gpu.measurements.alternatives import matrix_slice
from benchmarks.gpu.parts import CALLS, PARTS
from crossd_ops import reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of both calls, as they are started on a GPU, on a machine without packages that are optional."""
    folder, missing = tmp_path_factory.mktemp("gpu"), tmp_path_factory.mktemp("missing")
    for name in ("tqdm", "matplotlib"):
        (missing / f"{name}.py").write_text("raise ImportError('not here')\n")
    paths = {"OUT": str(folder), "PYTHON": sys.executable, "PYTHONPATH": str(missing)}
    for call in CALLS:
        process = subprocess.run(
            ["sh", str(ROOT / "benchmarks" / "gpu.sh"), call, "--dry-run", "--commit", "abc"],
            env={**os.environ, **paths, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        log = folder / "gpu.log"
        said = process.stdout + process.stderr + (log.read_text()[-4000:] if log.exists() else "")
        assert process.returncode == 0, said
        begun = re.findall(r"^(\w+): .*\(at most", process.stderr, re.MULTILINE)
        assert begun == [name for name, part in PARTS.items() if part.of_machine or name in CALLS[call]]
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
    assert set(found["kernels"]["kernels"]) == kernel_names()
    assert found["bandwidth"]["copy_bytes_per_second"] > 0
    operators = {row["operator"] for row in found["operators"]["rows"]}
    assert operators == {
        *("fourier_shift_slice", "fourier_shift", "rotation_head", "rotation_shift", "predict_shift"),
        *("crossd_conv2d", "crossd_conv3d", "sample_conv2d", "sample_conv3d"),
    }
    for row in found["operators"]["rows"]:
        assert row["deviation"] < (0.05 if row["dtype"] == "bfloat16" else 1e-4), row
        assert all(candidate["seconds"] > 0 for candidate in row["candidates"].values()), row
    assert {*found["networks"]["rows"][0]["variants"]} == {"plain", "fused", "expansion"}
    assert not [path for path in dry_run.parent.iterdir() if path.name not in ("gpu.json", "gpu.log")]


def test_report(dry_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = json.loads(dry_run.read_text())
    files = []
    for call, names in CALLS.items():  # each as if it had run on a machine of its own
        parts = {name: outcome for name, outcome in results["parts"].items() if name in (*names, "environment")}
        files.append(tmp_path / f"{call}.json")
        files[-1].write_text(json.dumps({**results, "parts": parts}))
    assert main(["report", *map(str, files), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert all(f"| {name} " in text for names in CALLS.values() for name in names)
    titles = ("Parts", "Operators", "Losing shapes", "Training steps", "Methods of the per-sample convolution")
    for title in (*titles, "Where the choice loses"):
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
    pytest.importorskip("matplotlib")
    from benchmarks.gpu.report import format_report

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

    assert len(kernel_names()) == 31
    backend = EmulatedBackend()
    for name, call in all_calls(backend, torch.device("cpu"), few=True):
        if name.startswith("fourier_shift") and str(CHANNELS[0]) not in name:  # many samples launch no more
            before = backend.statistics()["launches"]
            call()
            launches = backend.statistics()["launches"] - before
            assert launches == 3, f"{name}: expected forward, backward and the sum of its parts, got {launches}"
