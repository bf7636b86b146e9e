"""The CUDA kernels of shifted columns and of their gradients, run by the emulator, and under sanitizers."""

from __future__ import annotations

import pytest
from emulator.build import EMULATOR, compile_program, run_program, why_not

CHECK = EMULATOR / "shifted_columns_check.cpp"


@pytest.mark.parametrize(
    ("variant", "options"),
    [("plain", ()), ("address", ("--one-order", "brief")), ("thread", ("--one-order", "brief"))],
)
def test_columns_and_gradients_agree_with_the_definition(variant: str, options: tuple[str, ...]) -> None:
    """In three orders of threads, bit for bit the same."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    process = run_program(compile_program(CHECK, variant), *options)
    assert process.returncode == 0, process.stdout[-3000:]
    assert process.stdout.splitlines()[-1].startswith("0 of ")
