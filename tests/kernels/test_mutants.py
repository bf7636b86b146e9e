"""The checks of the kernels can fail: each fault of mutants.py and planted_faults.py, in the sources, turns one red."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from columns_mutants import COLUMNS_SUITES
from emulator.build import why_not
from mutants import SUITES, Mutant, Suite
from planted_faults import KINDS
from shifted_columns_mutants import SHIFTED_COLUMNS_SUITES
from tiles_mutants import TILES_SUITES
from whole_head_mutants import WHOLE_HEAD

pytestmark = pytest.mark.skipif(why_not("plain") is not None, reason=str(why_not("plain")))


ALL_SUITES = [*SUITES, *COLUMNS_SUITES, *TILES_SUITES, *SHIFTED_COLUMNS_SUITES, *WHOLE_HEAD, *KINDS]


@pytest.mark.parametrize("suite", ALL_SUITES, ids=lambda suite: suite.name)
def test_every_mutant_is_found(suite: Suite) -> None:
    reason = why_not(suite.variant)
    if reason is not None:
        pytest.skip(reason)
    program = suite.program()
    numbers = range(1, len(suite.mutants) + 1)
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(lambda number: suite.found_at(program, number), numbers))
    assert [str(mutant) for mutant, place in zip(suite.mutants, found, strict=True) if place is None] == []
    # Of the cases that found them, the sources themselves must pass each.
    assert suite.complaint_until(program, max(place for place in found if place)) == ""


def test_mutants_cover_what_can_go_wrong() -> None:
    """Signs, indices, bounds, barriers; at least 20 of them."""
    mutants = [mutant for suite in ALL_SUITES for mutant in suite.mutants]
    assert len(set(mutants)) == len(mutants) >= 20
    assert sum("__syncthreads" in mutant.old for mutant in mutants) >= 3


def test_a_mutant_must_stand_in_the_source_once() -> None:
    mutant = Mutant("shift/cuda/taps.cuh", "a + b", "a - b")
    assert mutant.applied("x = a + b", 7) == "x = ((::crossd_ops::mutant_in_force == 7) ? (a - b) : (a + b))"
    for text in ("x = a * b", "a + b, a + b"):
        with pytest.raises(ValueError, match="expected the old text once"):
            mutant.applied(text, 7)
