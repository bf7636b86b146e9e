"""What a network's code does next with a value that it asks for, read in its bytecode, as Python tells nobody."""

from __future__ import annotations

import dis
import functools
import opcode
from collections.abc import Collection
from types import CodeType, FrameType
from typing import Any

COMPARED, SOUGHT, TAKEN = ("COMPARE_OP",), ("CONTAINS_OP",), ("BINARY_SUBSCR", "STORE_SUBSCR", "BINARY_OP")
_PACKAGE = __name__.partition(".")[0]
_SKIPPED = ("CACHE", "EXTENDED_ARG", "NOP", "PRECALL")
_ENDS = ("STORE", "POP_TOP", "POP_JUMP", "RETURN", "FOR_ITER", "JUMP")  # of the expression before
_CONSTANT = ("LOAD_CONST", "LOAD_SMALL_INT")


def of_networks(frame: FrameType) -> bool:
    """Whether it is not the code of torch or of this package, which know what they got."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] not in ("torch", _PACKAGE)


def raised_by_us(error: BaseException) -> bool:
    """Whether it is a refusal of this package, and no error of what the package calls."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] != _PACKAGE:
        return False
    return opcode.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def unpacked(frame: FrameType) -> tuple[int, int]:
    """How many values are being unpacked from something: at the front, and behind what gets the rest."""
    code, place = frame.f_code.co_code, frame.f_lasti
    operation, number = opcode.opname[code[place]], code[place + 1]
    if operation == "UNPACK_SEQUENCE":
        return number, 0
    if operation == "UNPACK_EX":
        before = opcode.opname[code[place - 2]] == "EXTENDED_ARG"
        return 0, code[place - 1] if before else 0
    if operation in ("CALL", "CALL_FUNCTION"):  # a, b = list(...)
        steps, numbers = _steps(frame.f_code)
        following = steps[numbers[place] + 1 :][:1]
        return (following[0][1], 0) if following and following[0][0] == "UNPACK_SEQUENCE" else (0, 0)
    return 0, 0


def sought_in(frame: FrameType) -> Any:
    """The constant in which something is being looked for; None elsewhere."""
    steps, numbers = _steps(frame.f_code)
    number = numbers.get(frame.f_lasti, 0)
    return steps[number - 1][1] if steps[number][0] in SOUGHT and steps[number - 1][0] in _CONSTANT else None


def given_to(frame: FrameType, names: Collection[str]) -> bool:
    """Whether the frame is calling something by an expression that has one of these names."""
    steps, numbers = _steps(frame.f_code)
    number = numbers.get(frame.f_lasti, 0)
    if not steps[number][0].startswith("CALL"):
        return False
    for operation, name in reversed(steps[:number]):
        if operation.startswith(_ENDS):
            return False
        if operation.startswith("LOAD") and name in names:
            return True
    return False


def constants_beside(frame: FrameType, operations: Collection[str]) -> list[Any]:
    """Constants that meet, in one of these operations, what the frame is being given, at once or under a name."""
    return _constants_beside(frame.f_code, frame.f_lasti, (*operations,))


@functools.lru_cache(maxsize=4096)
def _constants_beside(code: CodeType, place: int, operations: tuple[str, ...]) -> list[Any]:
    steps, numbers = _steps(code)
    number = numbers.get(place)
    if number is None or number + 1 >= len(steps):
        return []
    operation, name = steps[number + 1]
    starts = [number + 1]
    if operation in ("STORE_FAST", "STORE_NAME", "STORE_DEREF"):
        loads = operation.replace("STORE", "LOAD")
        starts = [after + 1 for after, step in enumerate(steps) if step == (loads, name)]
    pairs = [steps[start : start + 2] for start in starts]
    return [
        pair[0][1]
        for pair in pairs
        if len(pair) == 2
        and pair[0][0] in _CONSTANT
        and pair[1][0] in operations
        and (pair[1][0] != "BINARY_OP" or pair[1][1] == "[]")
    ]


@functools.lru_cache(maxsize=1024)
def _steps(code: CodeType) -> tuple[list[tuple[str, Any]], dict[int, int]]:
    """The operations with what they are about, and the number of each by its place."""
    steps: list[tuple[str, Any]] = []
    numbers: dict[int, int] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname not in _SKIPPED:
            numbers[instruction.offset] = len(steps)
            named = instruction.argrepr if instruction.opname == "BINARY_OP" else instruction.argval
            steps.append((instruction.opname, named))
    return steps, numbers
