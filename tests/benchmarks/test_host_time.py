"""The table of what a call costs the host."""

from __future__ import annotations

import re

import pytest

from benchmarks import host_time


def test_prints_every_call_without_and_with_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_time, "_CALLS", 1)
    host_time.main(["--repeat", "1"])
    first, second = capsys.readouterr().out.split("\n\n")
    header, *rows = first.splitlines()
    assert header.split()[-4:] == ["no", "grad", "grad,", "forward"]
    beyond = [
        f"beyond the convolution, {sizes}" for sizes in ("1 x 1 x 4^2", "1 x 4 x 8^2", "2 x 4 x 8^2", "2 x 16 x 12^2")
    ]
    names = [*host_time.calls(grad=False), *beyond]
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        assert row.startswith(name)
        assert len([float(figure) for figure in row.removeprefix(name).split()]) == 2

    header, *rows = second.splitlines()
    assert header.split()[-6:] == ["no", "grad", "forward", "forward", "+", "backward"]
    assert [row.split()[0] for row in rows] == ["float32", "bfloat16", "autocast"]
    for row in rows:
        times = re.findall(r"([\d.]+) / ([\d.]+) = ([\d.]+)", row)
        assert len(times) == 3
        assert all(abs(float(ours) / float(plain) - float(ratio)) < 0.1 for ours, plain, ratio in times)


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        host_time.main(["--repeat", "0"])
    assert "--repeat: expected at least 1, got 0" in capsys.readouterr().err
