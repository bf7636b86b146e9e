"""Choices in a file: what is written is read, and everything else is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossd_ops.tuning import choice, saved

PROGRAM = """
import torch
import crossd_ops
from crossd_ops.tuning import choice
tensors = torch.ones(3, 8, 12, 12), torch.ones(8, 8, 3, 3, 3), torch.ones(3, 3)
found = choice.explain(*tensors, (1, 1, 1, 1), backward=False)
print(found.method, found.why)
"""


def key() -> tuple[int, ...]:
    tensors = torch.ones(3, 8, 12, 12), torch.ones(8, 8, 3, 3, 3), torch.ones(3, 3)
    return choice.explain(*tensors, (1, 1, 1, 1), backward=False).key


def test_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    problems = [saved.Saved([1, 2], "loop", "one"), saved.Saved([3], "matrix", "another")]
    saved.save(path, "a machine", problems)
    assert saved.load(path) == problems
    assert json.loads(path.read_text())["machine"] == "a machine"
    assert [*tmp_path.iterdir()] == [path]


def test_environment_names_a_file(tmp_path: Path, compiled_library: None) -> None:
    path = tmp_path / "tuning.json"
    saved.save(path, "a machine", [saved.Saved(list(key()), "loop", "a test's")])
    assert _run(path).stdout == "loop measured\n"
    assert "measured" not in _run("").stdout


def _run(path: Path | str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, saved.VARIABLE: str(path)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a file of `python -m crossd_ops profile --save`, got format None"),
        ('{"format": "another"}', "got format 'another'"),
        ('{"format": "crossd_ops tuning 1"}', "expected problems with key, method and about"),
        ('{"format": "crossd_ops tuning 1", "problems": [{"key": [1]}]}', "expected problems with key"),
        (
            '{"format": "crossd_ops tuning 1", "problems": [{"key": [1], "method": "best", "about": ""}]}',
            "expected a key of ints and a method of grouped, loop, matrix, small, tiles, shared, got [1], 'best'",
        ),
        (
            '{"format": "crossd_ops tuning 1", "problems": [{"key": "1", "method": "loop", "about": ""}]}',
            "expected a key of ints and a method of grouped, loop, matrix, small, tiles, shared, got '1', 'loop'",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(content)
    monkeypatch.setenv(saved.VARIABLE, str(path))
    with pytest.raises(ValueError) as caught:
        saved.use_file_of_environment()
    assert message in str(caught.value) and str(caught.value).startswith(f"{saved.VARIABLE}: expected a file")


def test_no_file(tmp_path: Path) -> None:
    result = _run(tmp_path / "none.json")
    assert result.returncode and "CROSSD_TUNING: expected a file" in result.stderr and "none.json" in result.stderr
