"""Columns and rows of a convolution on the CPU, and their adjoints, in memory of exactly the size they may touch."""

from __future__ import annotations

import pytest
from emulator.build import EMULATOR, assert_check_passes, why_not
from emulator.cpu_build import cpu_program


@pytest.mark.parametrize("check", ["columns_check", "image_rows_check"])
@pytest.mark.parametrize(("variant", "options"), [("address", ()), ("thread", ("--cases=130",))])
def test_kernels_under_sanitizers(variant: str, options: tuple[str, ...], check: str) -> None:
    """What is written where depends on all numbers, and who writes it on few of them: cases by turns."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_check_passes(cpu_program(EMULATOR / f"{check}.cpp", variant), *options)
