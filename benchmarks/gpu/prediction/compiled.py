"""What a compiler makes of recorded operators, as an assumption: elementwise neighbours become one kernel.

torch.compile's inductor is not run, which would take its compiler. A run of elementwise operators becomes one kernel
that reads what comes from outside of it and writes what is used outside; a reduction may end it. Transforms, products
and crossd_ops' own stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.gpu.prediction.models import LAUNCHES_NOTHING
from benchmarks.gpu.prediction.torch_models import ELEMENTWISE, FILLING, FUSED, REDUCTIONS
from benchmarks.gpu.prediction.trace import Array, Call

_MOVING = {"aten.select_backward", "aten.slice_backward", "aten.constant_pad_nd", "aten.eye"}
_FUSIBLE = {*ELEMENTWISE, *FILLING, *_MOVING}


def fuse_elementwise(calls: Sequence[Call]) -> list[Call]:
    """The calls that are left, each fused kernel in the place of its last."""
    launching = [call for call in calls if not (call.is_view or call.operator in LAUNCHES_NOTHING)]
    last_use = {array.memory: place for place, call in enumerate(launching) for array in call.arrays}
    found: list[Call] = []
    run: list[Call] = []
    for place, call in enumerate(launching):
        if call.operator in _FUSIBLE:
            run.append(call)
            continue
        ends_a_run = call.operator in REDUCTIONS
        if run or ends_a_run:
            found.append(_fused([*run, call] if ends_a_run else run, last_use, place if ends_a_run else place - 1))
        if not ends_a_run:
            found.append(call)
        run = []
    return [*found, _fused(run, last_use, len(launching))] if run else found


def _fused(run: list[Call], last_use: dict[int, int], end: int) -> Call:
    """A call that reads and writes what its parts share with the others; `end`: the place of its last part."""
    made = {array.memory for call in run for array in call.results}
    read = _each_once(array for call in run for array in call.arrays if array.memory not in made)
    # A result that nobody records the use of is one of the whole.
    written = _each_once(array for call in run for array in call.results if last_use.get(array.memory, end + 1) > end)
    return Call(FUSED, {"read": read}, tuple(written), part=run[-1].part)


def _each_once(arrays: Iterable[Array]) -> list[Array]:
    """The largest view of each memory."""
    largest: dict[int, Array] = {}
    for array in arrays:
        if array.memory not in largest or array.bytes > largest[array.memory].bytes:
            largest[array.memory] = array
    return list(largest.values())
