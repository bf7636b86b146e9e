"""`python -m benchmarks.gpu.pytest_record FILE ARGUMENTS`: pytest, which tells each outcome in FILE as it comes.

pytest names what failed at its end alone, which a run that is cut off does not reach.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

_KEPT_CHARACTERS = 3000  # of a failure's text, its end


class Record:
    """A plugin that writes a line of JSON for each test that begins, and for each that has come to something."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(nodeid, "began")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", str(report.longrepr or ""))
        elif report.skipped:
            self._write(report.nodeid, "xfailed" if hasattr(report, "wasxfail") else "skipped", _why_skipped(report))
        elif report.when == "call":
            self._write(report.nodeid, "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", str(report.longrepr or ""))
        elif report.skipped:  # all of a file, where a package is missing
            self._write(report.nodeid, "skipped", _why_skipped(report))

    def _write(self, nodeid: str, outcome: str, text: str = "") -> None:
        self._file.write(json.dumps([nodeid, outcome, text[-_KEPT_CHARACTERS:]]) + "\n")
        self._file.flush()


def _why_skipped(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else ""  # file, line, reason


def summarize(file: Path) -> dict[str, Any]:
    """What a record has come to: counts, faults and their texts, reasons of skipped tests, tests without an end."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    outcomes: dict[str, str] = {}
    failures: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for line in lines:
        try:
            nodeid, outcome, text = json.loads(line)
        except ValueError:  # half of a line, which is being written
            continue
        if outcome == "failed":
            failures.setdefault(nodeid, text)
        if outcome == "skipped":
            reasons[text] += 1
        if outcomes.get(nodeid) != "failed":  # at its end a test may fail that has passed
            outcomes[nodeid] = outcome
    counts = Counter(outcome for outcome in outcomes.values() if outcome != "began")
    return {
        "counts": dict(counts),
        "faults": [f"{nodeid}: {_reason(text)}" for nodeid, text in failures.items()],
        "failures": failures,
        "skipped": dict(reasons),
        "unfinished": [nodeid for nodeid, outcome in outcomes.items() if outcome == "began"],
    }


def _reason(text: str) -> str:
    """The first line of the error, which pytest marks with E."""
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (errors or text.splitlines() or [""])[0][:300]


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[2:], plugins=[Record(Path(sys.argv[1]))]))
