"""Choices kept in a file: `python -m crossd_ops profile --save FILE` writes it, CROSSD_TUNING=FILE reads it.

They are those of the machine that measured them; on another one they are as right, and perhaps slower.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import choice

VARIABLE = "CROSSD_TUNING"
_FORMAT = "crossd_ops tuning 1"


class Saved(NamedTuple):
    """A method for a problem; `about` tells people which problem it is."""

    key: Sequence[int]
    method: str
    about: str


def save(path: Path, machine: str, problems: Sequence[Saved]) -> None:
    """Writes the choices; what was at `path` stays until all is written."""
    head = json.dumps({"format": _FORMAT, "machine": machine})
    lines = ",\n".join(json.dumps(problem._asdict()) for problem in problems)  # one each, for people
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(f'{head[:-1]}, "problems": [\n{lines}\n]}}\n')
    temporary.replace(path)


def load(path: Path) -> list[Saved]:
    """The choices of a file. Raises ValueError where it is none of `save`'s, OSError where it cannot be read."""
    try:
        content: Any = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from error
    form = content.get("format") if isinstance(content, dict) else None
    if form != _FORMAT:
        raise ValueError(f"{path}: expected a file of `python -m crossd_ops profile --save`, got format {form!r}")
    try:
        found = [Saved(**problem) for problem in content["problems"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected problems with key, method and about, got {error}") from error
    for problem in found:
        whole = isinstance(problem.key, list) and all(type(number) is int for number in problem.key)
        if not whole or problem.method not in choice.METHODS:
            expected = f"a key of ints and a method of {', '.join(choice.METHODS)}"
            raise ValueError(f"{path}: expected {expected}, got {problem.key!r}, {problem.method!r}")
    return found


def use_file_of_environment() -> None:
    """Sets the methods of the file that CROSSD_TUNING names, where it names one. Raises ValueError with both."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    try:
        problems = load(Path(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{VARIABLE}: expected a file of `python -m crossd_ops profile --save`: {error}") from error
    for problem in problems:
        choice.set_method(problem.key, problem.method)
