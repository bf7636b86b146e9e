"""The benchmarks' progress bar: tqdm's where it is installed, and a silent one elsewhere."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.__main__ import _ProgressBar
from benchmarks.progress import progress_bar


def use_bar(bar: Any) -> None:
    with bar as entered:
        entered.update()
        entered.update(2)
        entered.set_postfix_str("a part", refresh=False)


def test_without_tqdm_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    use_bar(progress_bar(total=3, desc="title", unit="step", initial=0, disable=False))
    with _ProgressBar("title", 2) as bar:
        bar.begin("a")
        bar.finish("a")
    assert capsys.readouterr() == ("", "")


def test_with_tqdm_it_is_tqdms(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=lambda **options: made.append(options) or "a bar"))
    assert progress_bar(total=3, desc="title") == "a bar"
    assert made == [{"total": 3, "desc": "title"}]


def test_the_silent_bar_takes_what_tqdms_takes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    use_bar(progress_bar(total=3, desc="title"))
    assert "3/3" in capsys.readouterr().err
