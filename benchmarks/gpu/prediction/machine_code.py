"""Instructions of a kernel by loop, counted in its machine code as nvdisasm prints it with source lines (`-c -g`).

A warp's instructions are counted along the longest way through each loop's body: of two ways that exclude each other
the longer counts, what a `break` leaves out counts, and so does the rarely taken side of a branch. Loops within count
on their own. Subroutines that are called (a division's slow way) and the code for warps that have diverged are not
followed, and neither is what follows a loop for the rest of its iterations, known by its lines, which are the loop's.
What one warp of a block, or of those that share a tile, does alone, behind such a condition in the source, is counted
apart, in loops too.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

_LINE = re.compile(
    r'//## File "(?P<file>[^"]+)", line (?P<line>\d+)|^(?P<label>\.L_\w+):|'
    r"/\*[0-9a-f]{4,}\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*);",
    re.MULTILINE,
)
_LABEL = re.compile(r"\.L_\w+")
_JUMPS = ("BRA", "BRX", "BRXU", "EXIT", "RET")
_LOOP = re.compile(r"\bfor \((?:(?:const )?[\w:]+ |; )(\w+)\b|\b(while) \(")

# The first that fits an opcode has it; what fits none is "other": branches, barriers, waiting for copies.
_CLASSES = {
    "tensor": r"[HIDQBO]G?MMA",
    "float64": r"D(FMA|ADD|MUL|SETP)",
    "special": r"MUFU|I2F|F2[IF]|FRND",
    "float32": r"F(FMA|ADD|MUL)2?|H(FMA2|ADD2|MUL2)|I(MAD|MUL)",  # the pipe of multiply-adds
    "shared": r"(LD|ST)SM?",
    "global": r"LDG|STG|LDGSTS|LD|ST|LDL|STL|RED|ATOMG?",
    "shuffle": r"SHFL",
    "uniform": r"U[A-Z0-9]+|R2UR|S2UR|LDCU",
    "integer": r"[UV]?I(ADD3?|MNMX3?|ABS)|VIADDMNMX|LEA|P?LOP3|ISETP|SHF|F?SEL|PRMT|FSETP|FMNMX3?|FCHK|MOV|CS2R|P2R|R2P"
    r"|POPC|FLO|BREV|BMSK|SGXT|[IF]2FP",
}
_UNROLL = re.compile(r"#pragma unroll (\d+)")
# A function's first line, or the second of a kernel's: its name is the first that is called in it.
_FUNCTION = re.compile(r"__device__|__global__|^ {4}\w+\((const \w+Problem|const float\*|\w+Shape|Head\w+) ")
_CALLED = re.compile(r"\b(?!__launch_bounds__|sizeof)(\w+)\(")
_STEPS = 4  # of an innermost loop of unknown length, in one iteration of the machine code's
_REST, _REST_LENGTH = 0.9, 12  # a block with this share of a loop's lines, and so many instructions, is of its rest
_ALONE = re.compile(r"\bif \((sample_warp != 0|threadIdx\.x (==|>=|< k(Lanes|HiddenChannels))|warp != 0|lane != 0)")
ONE_WARP = "one warp"  # in place of a loop's name
_KERNEL = -1  # in place of a loop's head: the kernel itself


@dataclass
class _Block:
    opcodes: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)  # of the instructions: file, line
    follow: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """A loop's own instructions on the longest way through it, without those of loops in it."""

    name: str  # function and variable, after those of the loops around it: "f.group/f.chunk"; "": what is in no loop
    counts: dict[str, int]  # by class
    iterations: int = 1  # of the source in one of the machine code's


def instruction_class(opcode: str) -> str:
    """The class of an opcode with its modifiers: FFMA.FTZ is of float32, LDS.128 of shared."""
    base = opcode.partition(".")[0]
    return next((name for name, pattern in _CLASSES.items() if re.fullmatch(pattern, base)), "other")


def loops_of(code: str) -> list[Loop]:
    """The loops of one kernel's disassembly, the kernel itself first, then in the order of the code."""
    found, of_one = _found_loops(code)
    return [*map(_unrolled, found.values()), *(Loop(name, counts) for name, counts in of_one.items())]


def steps_of(code: str, loops: Collection[str], accesses: Collection[int]) -> dict[str, float]:
    """Instructions of a step, in the mean of the innermost loops of these names, by a step's accesses of shared memory.

    Of those that do four steps at a time, as their source asks.
    """
    found, _ = _found_loops(code)
    steps: dict[int, list[float]] = {}
    for loop in (loop for name, same in found.items() if name.rpartition("/")[2] in loops for loop in same):
        of_step, rest = divmod(loop.counts.get("shared", 0), _STEPS)
        if rest == 0 and of_step in accesses:
            steps.setdefault(of_step, []).append(sum(loop.counts.values()) / _STEPS)
    return {str(of_step): round(sum(counts) / len(counts), 2) for of_step, counts in sorted(steps.items())}


def _found_loops(code: str) -> tuple[dict[str, list[Loop]], dict[str, dict[str, int]]]:
    """By name, all that the compiler made of each; and what one warp of a block does alone in it."""
    blocks = _blocks(code)
    before = [[index for index, block in enumerate(blocks) if other in block.follow] for other in range(len(blocks))]
    dominators = _dominators(before)
    bodies = _natural_loops(blocks, before, dominators)
    around = {
        head: min(
            (other for other in bodies if other != head and head in bodies[other]),
            key=lambda other: len(bodies[other]),
            default=_KERNEL,
        )
        for head in bodies
    }
    names = {_KERNEL: ""}
    for head in sorted(bodies, key=lambda head: -len(bodies[head])):
        function, variable, _ = _source_of(blocks, head, bodies[head])
        names[head] = f"{names[around[head]]}/{function}{variable}".lstrip("/")
    bodies[_KERNEL] = set(range(len(blocks)))
    inner = {head: [bodies[other] for other in around if around[other] == head] for head in bodies}
    ways = {head: _longest_way(blocks, head, bodies[head], inner[head]) for head in sorted(bodies)}
    alone = _of_one_warp(blocks, before, dominators)
    found: dict[str, list[Loop]] = {}
    for head, way in ways.items():
        of_all = [index for index in way if index not in alone]
        iterations = 1 if head == _KERNEL else _source_of(blocks, head, bodies[head])[2]
        found.setdefault(names[head], []).append(Loop(names[head], _classes(blocks, of_all), iterations))
    of_one = {
        f"{names[head]}/{ONE_WARP}".lstrip("/"): _classes(blocks, [index for index in way if index in alone])
        for head, way in ways.items()
    }
    return found, {name: counts for name, counts in of_one.items() if counts}


def _classes(blocks: list[_Block], way: list[int]) -> dict[str, int]:
    counts = Counter(instruction_class(opcode) for index in way for opcode in blocks[index].opcodes)
    return dict(sorted(counts.items()))


def _unrolled(found: list[Loop]) -> Loop:
    """One of several loops that the compiler made of one in the source: the longest, which does several iterations."""
    longest, shortest = (choose(found, key=lambda loop: sum(loop.counts.values())) for choose in (max, min))
    if longest is shortest:
        return longest
    accesses = [loop.counts.get("global", 0) or loop.counts.get("shared", 0) for loop in (longest, shortest)]
    times = accesses[0] // accesses[1] if accesses[1] else 1
    return replace(longest, iterations=max(times, longest.iterations))


def _blocks(code: str) -> list[_Block]:
    """Basic blocks in the order of the code, with those that may follow each."""
    blocks = [_Block()]
    labels: dict[str, int] = {}
    jumps: dict[int, list[str]] = {}
    place = ("", 0)
    for match in _LINE.finditer(code):
        if match["file"]:
            place = (match["file"], int(match["line"]))
        elif match["label"]:
            if blocks[-1].opcodes:
                blocks[-1].follow.append(len(blocks))
                blocks.append(_Block())
            labels[match["label"]] = len(blocks) - 1
        else:
            opcode, operands = match["opcode"], match["operands"]
            blocks[-1].opcodes.append(opcode)
            blocks[-1].places.append(place)
            base, targets = opcode.partition(".")[0], _LABEL.findall(operands)
            if not (base in _JUMPS or (base == "CALL" and targets)):  # sm_80 leaves loops by CALL
                continue
            diverged = opcode == "BRA.DIV"
            if not diverged:
                jumps[len(blocks) - 1] = targets
            if match["guard"] or diverged or re.match(r"\s*!?U?P\d", operands):
                blocks[-1].follow.append(len(blocks))
            blocks.append(_Block())
    for index, names in jumps.items():
        blocks[index].follow += [labels[name] for name in names if name in labels]
    for block in blocks:
        block.follow = [index for index in block.follow if index < len(blocks)]
    return blocks


def _dominators(before: list[list[int]]) -> list[set[int]]:
    """By block those on every way to it, and itself; all blocks for one that is not reached."""
    dominators = [{0}, *(set(range(len(before))) for _ in before[1:])]
    changed = True
    while changed:
        changed = False
        for index in range(1, len(before)):
            if not before[index]:
                continue
            found = {index} | set.intersection(*(dominators[other] for other in before[index]))
            if found != dominators[index]:
                dominators[index], changed = found, True
    return dominators


def _of_one_warp(blocks: list[_Block], before: list[list[int]], dominators: list[set[int]]) -> set[int]:
    """Blocks that are reached only by a condition which one warp of a block meets."""
    found: set[int] = set()
    for index, block in enumerate(blocks):
        if block.follow and block.places and _ALONE.search(_text(block.places[-1])):
            entries = [other for other in block.follow if before[other] == [index]]
            found |= {other for other in range(len(blocks)) for entry in entries if entry in dominators[other]}
    return found & _reached(blocks)


def _natural_loops(blocks: list[_Block], before: list[list[int]], dominators: list[set[int]]) -> dict[int, set[int]]:
    """By its head each loop's blocks: those from which the head is reached again without leaving what it dominates."""
    reached = _reached(blocks)
    loops: dict[int, set[int]] = {}
    for index in reached:
        for head in blocks[index].follow:
            if head in dominators[index]:
                body, left = loops.setdefault(head, {head}), [index]
                while left:
                    block = left.pop()
                    if block not in body:
                        body.add(block)
                        left += [other for other in before[block] if other in reached]
    return loops


def _reached(blocks: list[_Block]) -> set[int]:
    reached, left = set(), [0]
    while left:
        index = left.pop()
        if index not in reached:
            reached.add(index)
            left += blocks[index].follow
    return reached


def _longest_way(blocks: list[_Block], head: int, body: Collection[int], inner: list[set[int]]) -> list[int]:
    """Blocks on the longest way from the head back to it, or through the kernel; loops within are passed through."""
    loop_of = {index: number for number, loop in enumerate(inner) for index in loop}
    of_loops = {place for index in loop_of for place in blocks[index].places}
    rest = {index for index in body if index not in loop_of and _share(blocks[index].places, of_loops) > _REST}

    def leave(number: int) -> set[int]:
        return {other for index in inner[number] for other in blocks[index].follow if other not in inner[number]}

    @functools.cache
    def longest(index: int, number: int | None) -> tuple[int, tuple[int, ...]] | None:
        """Instructions from a block, or a loop within, to the end, and the blocks on the way; None: not to the head."""
        follow = leave(number) if number is not None else set(blocks[index].follow)
        own, way = (0, ()) if number is not None else (0 if index in rest else len(blocks[index].opcodes), (index,))
        ends = head in follow or (head == _KERNEL and not follow)
        found = [(0, ())] if ends else []
        for other in follow:
            if other != head and other in body:
                way_on = longest(-1, loop_of[other]) if other in loop_of else longest(other, None)
                found += [way_on] if way_on else []
        if not found:
            return None
        count, on = max(found)
        return own + count, way + on

    start = max(head, 0)
    way = longest(-1, loop_of[start]) if start in loop_of else longest(start, None)
    assert way is not None
    return [index for index in way[1] if index not in rest]


def _share(places: list[tuple[str, int]], of: set[tuple[str, int]]) -> float:
    return sum(place in of for place in places) / len(places) if len(places) >= _REST_LENGTH else 0.0


def _source_of(blocks: list[_Block], head: int, body: set[int]) -> tuple[str, str, int]:
    """A loop's function, variable and `#pragma unroll N`, from the source line of the jump back to its head."""
    last = max(index for index in body if head in blocks[index].follow)
    heads = [place for place in blocks[last].places if _LOOP.search(_text(place))]
    if not heads:
        return "", Path(blocks[last].places[-1][0]).stem, 1
    # Unrolled loops within have left their lines, too; the loop's own is the first of the function that is last in the
    # kernel's file, for what is inlined stands before, or in other files.
    of_kernel = [place for place in heads if place[0] == blocks[0].places[0][0]]
    file, line = heads[-1] if heads[-1] == blocks[last].places[-1] else max(of_kernel or heads)
    start = _start_of_function(file, line)
    if heads[-1] != blocks[last].places[-1]:
        line = min(number for name, number in heads if name == file and number > start)
    above = _source(file)[:line]
    match = _LOOP.search(above[-1])
    called = _CALLED.search(above[start - 1]) if start else None
    assert match is not None
    function = called[1] if called else Path(file).stem
    unroll = _UNROLL.search(above[-2]) if len(above) > 1 else None
    return f"{function}.", match[1] or match[2], int(unroll[1]) if unroll else 1


def _start_of_function(file: str, line: int) -> int:
    """The line with its name; 0: not found."""
    texts = _source(file)
    return next((n for n in range(line, 0, -1) if _FUNCTION.search(texts[n - 1]) and _CALLED.search(texts[n - 1])), 0)


def _text(place: tuple[str, int]) -> str:
    file, line = place
    return _source(file)[line - 1] if _source(file) else ""


@functools.cache
def _source(file: str) -> list[str]:
    path = Path(file)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
