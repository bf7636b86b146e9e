"""Which launches an operator makes: a function for each, by its name. An operator without one is an error.

Models of crossd_ops' kernels are in own_models.py, whole_head_models.py and tiles_models.py, those of torch's operators
in torch_models.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.gpu.prediction.general_launches import GeneralLaunch
from benchmarks.gpu.prediction.launches import Launch
from benchmarks.gpu.prediction.trace import Call


@dataclass(frozen=True)
class LibraryLaunch:
    """A kernel of torch or of a library, by a roofline: its bytes, its multiply-adds and what does them."""

    kernel: str  # the operator, and what of it
    moved: int  # bytes, of every array once
    multiply_adds: int = 0
    unit: str = "float32"  # "bfloat16", "tf32", "float32", "float64"
    grouped: bool = False  # a convolution of several groups


AnyLaunch = Launch | GeneralLaunch | LibraryLaunch
Model = Callable[[Call], Iterable[AnyLaunch]]
MODELS: dict[str, Model] = {}
LAUNCHES_NOTHING: set[str] = set()  # and is no view by its schema


class UnknownOperator(KeyError):
    """An operator that has no model: it must not count as free."""

    def __str__(self) -> str:
        return (
            f"{self.args[0]}: no model says what it launches; add one to benchmarks/gpu/prediction/torch_models.py, or "
            "to own_models.py for an operator of crossd_ops"
        )


def model(*operators: str) -> Callable[[Model], Model]:
    """Makes the function the model of operators such as "aten.add"."""

    def register(function: Model) -> Model:
        twice = MODELS.keys() & set(operators)
        if twice:
            raise ValueError(f"operators: expected those without a model, got {', '.join(sorted(twice))}")
        MODELS.update(dict.fromkeys(operators, function))
        return function

    return register


def launches_of(call: Call) -> list[AnyLaunch]:
    """Raises UnknownOperator."""
    if call.is_view or call.operator in LAUNCHES_NOTHING:
        return []
    if call.operator not in MODELS:
        raise UnknownOperator(call.operator)
    return list(MODELS[call.operator](call))
