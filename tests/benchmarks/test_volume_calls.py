"""The table of what it costs that calls are seen."""

from __future__ import annotations

import pytest

from benchmarks.networks import volume_calls


def test_prints_every_call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(volume_calls, "_CALLS", 1)
    volume_calls.main(["--repeat", "1"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["torch", "seen"]
    assert len(rows) == len(volume_calls._MEASURED)
    assert all(float(figure) >= 0 for row in rows for figure in row.split()[-2:])
    with pytest.raises(SystemExit):
        volume_calls.main(["--repeat", "0"])
