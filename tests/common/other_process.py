"""Tests again in a process of their own, where an environment variable sets what is read once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def assert_tests_pass(files: tuple[str, ...], chosen: str, *, more_than: int, **environment: str) -> None:
    """Those of `test_NAME.py` that pytest's -k chooses; so many at least, that a wrong choice is noticed."""
    paths = [str(path) for name in files for path in TESTS.rglob(f"test_{name}.py")]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths, "-k", chosen],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None and int(passed[1]) > more_than
