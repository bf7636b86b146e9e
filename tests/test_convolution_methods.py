"""Every method of the per-sample convolution forced upon every problem, and the table behind the choice among them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tqdm")

from benchmarks import convolution_methods

HERE = Path(__file__).parent


def test_prints_a_row_for_each_layer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convolution_methods, "LAYERS", [(3, 4, 3, 2, 8)])
    monkeypatch.setattr(convolution_methods, "METHODS", ("plain", "loop", "chosen"))
    monkeypatch.setattr(convolution_methods, "SMALL", [(4, 6, 3, 1, 5)])
    convolution_methods.main(["--batch", "2", "--repeat", "1"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert all(name in header for name in convolution_methods.METHODS)
    assert [row.split()[0] for row in rows] == ["3->4", "4->6"]


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convolution_methods.main(["--batch", "0"])
    assert "expected at least 1, got 0, 9" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["grouped", "loop"])
def test_every_method_convolves_every_problem(compiled_library: None, method: str) -> None:
    """The tests of values again, in a process where the method is forced: small problems are products of matrices."""
    files = [
        str(HERE / f"test_{name}.py") for name in ("convolution", "convolution_operators", "convolution_properties")
    ]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", "not compile"],
        env={**os.environ, "CROSSD_CONVOLUTION_METHOD": method},
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None and int(passed[1]) > 80
