"""The table behind the choice of a convolution method."""

from __future__ import annotations

import pytest

pytest.importorskip("tqdm")

from benchmarks import convolution_methods


def test_prints_a_row_for_each_layer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(convolution_methods, "LAYERS", [(3, 4, 3, 2, 8), (4, 6, 3, 1, 5)])
    convolution_methods.main(["--batch", "2", "--repeat", "1"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert all(name in header for name in convolution_methods.METHODS)
    assert [row.split()[0] for row in rows] == ["3->4", "4->6"]


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convolution_methods.main(["--batch", "0"])
    assert "expected at least 1, got 0, 9" in capsys.readouterr().err
