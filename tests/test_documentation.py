"""The documentation holds: every code block in it runs, links and pictures are there, texts of errors are the code's."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import model_zoo
import pytest

ROOT = Path(__file__).absolute().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NEEDS_TORCHVISION = ("from_2d_to_3d.md",)


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0, f"{page.name}: a fence is not closed"
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in found]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_python(page: Path) -> None:
    """Runs the page's Python blocks in one namespace; a block of text after one is what it prints."""
    namespace: dict[str, object] = {"__name__": page.stem}
    found = blocks(page)
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        printed = io.StringIO()
        # Blank lines in front: a traceback then tells the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if after is not None and after.language == "text":
            assert printed.getvalue() == after.text, f"{page.name}:{after.line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page.name in NEEDS_TORCHVISION:
        model_zoo.library("torchvision")
        for package in ("onnxruntime", "onnxscript"):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)  # blocks write files
    run_python(page)
