"""The first call of a problem on a GPU tries the methods, where torch.backends.cudnn.benchmark is set.

As the library of torch's own convolutions does then. Never while a graph is captured, which would keep the trials, and
never under torch.use_deterministic_algorithms, since another run could choose otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import choice, clock, tf32

_TURNS = 3
_is_wanted: Callable[[], bool] = torch._C._get_cudnn_benchmark
_seen: set[tuple[Any, ...]] = set()


def tried_before(
    operator: Callable[..., Any], *, backward: bool, kernels_are_given: bool = False
) -> Callable[..., Any]:
    """`operator`, which tries the methods at the first call of a problem; itself where torch has no CUDA."""
    if torch.version.cuda is None:
        return operator
    first = 1 if backward else 0  # after the gradient
    end = first + (2 if kernels_are_given else 3)  # a shift makes them otherwise
    place = 3 if kernels_are_given else 4

    def call(*arguments: Any) -> Any:
        if arguments[first].is_cuda:
            tf32.follow_torch(arguments[first])
            if _is_wanted() and not torch.cuda.is_current_stream_capturing():
                try_methods(lambda: operator(*arguments), arguments[first:end], arguments[place], backward=backward)
        return operator(*arguments)

    return call


def try_methods(
    call: Callable[[], object], tensors: Sequence[Tensor], place: Sequence[int], *, backward: bool
) -> dict[str, float]:
    """Sets the quickest method for the problem of `call`; seconds of each, none where it was tried before.

    tensors: input, weight and shift; without a shift the weight holds the kernels of each sample.
    Where a method is set for the problem it stays. A method for which memory does not suffice is left out.
    """
    input, weight, *rest = tensors
    shift = rest[0] if rest else None
    kind = backward, shift is None, input.device, input.dtype, tf32.allowed()
    problem = *kind, input.shape, input.stride(), weight.shape, place
    if problem in _seen or torch.are_deterministic_algorithms_enabled():
        return {}
    _seen.add(problem)
    chosen = choice.explain(input, weight, shift, place, backward=backward)
    if chosen.why == "measured" or len(chosen.possible) < 2:
        return {}
    seconds: dict[str, float] = {}
    for method in chosen.possible:
        choice.set_method(chosen.key, method)
        try:
            seconds |= clock.seconds_of({method: call}, input.device, _TURNS, lambda: None)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; without torch 2.13 its words are lost
            if "memory" not in str(error):
                choice.set_method(chosen.key, None)
                raise
    choice.set_method(chosen.key, min(seconds, key=seconds.__getitem__) if seconds else None)
    return seconds
