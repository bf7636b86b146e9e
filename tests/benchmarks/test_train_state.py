"""Checkpoints and tables of the training script: whole after a write that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.train.state import StepTable, load_checkpoint, save_checkpoint


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "model": {"weight": torch.arange(1000)}})
    whole = torch.save

    def save_half(state: object, file: object) -> None:
        whole(state, file)
        file.truncate(100)
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, {"step": 2, "model": {"weight": torch.arange(1000)}})
    assert load_checkpoint(path)["step"] == 1
    monkeypatch.undo()
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path)["step"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_table_drops_what_will_be_made_again(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = StepTable(path, ["loss"], last_step=0)
    table.append([[step, repr(step / 3)] for step in range(1, 6)])
    with path.open("a") as file:
        file.write("6,1.")  # a row that a kill cut short
    table = StepTable(path, ["loss"], last_step=4)
    table.append([[5, "0.5"]])
    assert table.columns() == {"step": [1, 2, 3, 4, 5], "loss": [1 / 3, 2 / 3, 1, 4 / 3, 0.5]}
