"""What a training run leaves on disk, whole at whatever moment it is killed: checkpoints and tables of losses."""

from __future__ import annotations

import csv
import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import torch


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: whoever reads it, after a crash too, finds the old content or the new."""
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        file.write(content)
        _replace(file, temporary, path)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, then put it in its place."""
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        torch.save(state, file)
        _replace(file, temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors on the CPU; a damaged one is refused."""
    try:
        # torch.load does not compare all checksums.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # which kinds a damaged file raises depends on where the damage is
        raise ValueError(f"checkpoint: expected a whole one, got {path}, which is damaged: {error}") from error
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """States of the random number generators of this process."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """The reverse of `random_state`."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


class StepTable:
    """A CSV file whose first column is the step; rows are appended, each by one write."""

    def __init__(self, path: Path, columns: list[str], last_step: int) -> None:
        """Keeps the rows up to `last_step`: later ones will be made again, and the last may have been cut short."""
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and int(line.split(",", 1)[0]) <= last_step]
        write_whole(path, "".join([",".join(["step", *columns]) + "\n", *kept]).encode())
        self._file = path.open("a", encoding="utf-8", newline="")

    def append(self, rows: list[list[Any]]) -> None:
        """Add rows, each beginning with its step."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue())
        self._file.flush()

    def sync(self) -> None:
        """Wait until the disk has all rows: a checkpoint must not be newer than they are."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def columns(self) -> dict[str, list[float]]:
        """Everything in the file, by column."""
        with self._path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = self._path.read_text(encoding="utf-8").split("\n", 1)[0].split(",")
        return {name: [float(row[name]) for row in rows] for name in names}


def _temporary(path: Path) -> Path:
    # A fixed name in the same folder: os.replace stays within the file system, a killed run leaves one file at most.
    return path.with_name(f".{path.name}.tmp")


def _replace(file: Any, temporary: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
