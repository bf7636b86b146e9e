"""The block of a launch that comes last sees what all the others wrote, by the emulator, and under sanitizers."""

from __future__ import annotations

import pytest
from emulator.build import EMULATOR, assert_check_passes, compile_program, why_not


@pytest.mark.parametrize("variant", ["plain", "address", "thread"])
def test_last_block_sums_what_all_blocks_wrote(variant: str) -> None:
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_check_passes(compile_program(EMULATOR / "last_block_check.cpp", variant))
