"""The CPU kernels of each instruction set: the tests of values again, in a process that may use no more than this one.

The whole suite runs with the machine's best set, which is left out here.
"""

from __future__ import annotations

import pytest
from other_process import assert_tests_pass

from crossd_ops.library import loaded

FILES = (
    "autograd",
    "functional",
    "fused_head",
    "head_operators",
    "head_types",
    "rotation_head",
    "rotation_head_operators",
)
# Nothing that starts programs of its own.
CHOSEN = (
    "(compiled or equals_the_layers or layout or far_from_zero or finite or needs or beside or contract or exponential"
    " or half_types or side_by_side) and not sanitizers and not emulated"
)


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
def test_values(compiled_library: None, instruction_set: str) -> None:
    if instruction_set == loaded.cpu_capability():
        pytest.skip("the rest of the suite runs with it")
    assert_tests_pass(FILES, CHOSEN, more_than=300, CROSSD_CPU_CAPABILITY=instruction_set)
