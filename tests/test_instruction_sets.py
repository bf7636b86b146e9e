"""The CPU kernels of each instruction set: the tests of values again, in a process that may use no more than this one.

The whole suite runs with the machine's best set, which is left out here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossd_ops import _library

HERE = Path(__file__).parent
FILES = ("autograd", "functional", "fused_head", "head_operators", "rotation_head", "rotation_head_operators")
# Nothing that starts programs of its own.
CHOSEN = (
    "(compiled or equals_the_layers or layout or far_from_zero or finite or needs or beside or contract or exponential)"
    " and not sanitizers and not emulated"
)


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_values(compiled_library: None, instruction_set: str) -> None:
    if instruction_set == _library.cpu_capability():
        pytest.skip("the rest of the suite runs with it")
    files = [str(HERE / f"test_{name}.py") for name in FILES]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", CHOSEN],
        env={**os.environ, "CROSSD_CPU_CAPABILITY": instruction_set},
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    passed = re.search(r"(\d+) passed", process.stdout)
    assert passed is not None and int(passed[1]) > 300
