"""The CUDA kernels as ptxas, the disassembler and the launchers see them (registers, memory, 16-byte accesses), and the
linters.

``CROSSD_UPDATE_KERNELS=1 pytest tests/kernels/test_static_kernels.py`` writes the table anew; its changes are to be
read before they are committed.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
from emulator.build import CSRC, EMULATOR, REPOSITORY, altered_sources, compile_program, run_program, why_not
from emulator.cubins import compile_cubin, nvcc_release

TABLE = Path(__file__).with_name("kernel_resources.json")
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
SOURCES = (
    "shift/cuda/shift.cu",
    "head/cuda/rotation.cu",
    "head/cuda/head.cu",
    "convolution/cuda/columns.cu",
    "convolution/cuda/tiles.cu",
    "convolution/shifted_columns/cuda/shifted_columns.cu",
)
LEAST_SHARED_LIMIT = 163 * 1024  # bytes of a block, of compute capability 8.0
REDUCTION = "__internal_trig_reduction_slowpathd"
REGISTER_TOLERANCE = 8  # one allocation unit of a warp: compilers of one release differ by less
UPDATE = os.environ.get("CROSSD_UPDATE_KERNELS") == "1"

# Kernels whose tiles move in vectors of 16 bytes: see shift/cuda/tile.cuh, Pack in head/cuda/rotation.cuh, load_tile in
# head/cuda/head_tile.cuh, ColumnsTile in convolution/cuda/columns.cuh, and convolution/cuda/tiles.cuh.
VECTORISED = re.compile(
    r"_(cubic3|rows)<|rotation_head_(pool|gradient)<[^>]*\(PixelOrder\)[01]|^head_(moments|pool|sums|gradient)<|"
    r"columns_from_|image_from_columns<.*[248]>|_tiles<"
)
PROPERTIES = re.compile(
    r"Function properties for (?P<name>\w+)\n\s+(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n(?P<used>.+)"
)
# Accesses of 16 bytes to global memory: loads, stores, and copies that go to shared memory without a register. Constant
# loads do not count: they are the tables of sine and cosine. A lane stores 8 bytes of a half type, those that it reads
# as 16 bytes of float from shared memory.
LOAD, STORE, COPY = r"\bLDG\.E\.128(?!\.CONSTANT)", r"\bSTG\.E\.128", r"\bLDGSTS\.E\.[A-Z0-9.]*128"
JUMP = r"\bBRA(?:\.U !?UP\d,)? `\((\.L_\w+)\)"
HALF_STORE = r"\bSTG\.E\.64"
WIDE_ACCESS = {  # of the kernels whose name has the key, a regular expression
    r"forward_\w+<(float, float|double.*), \d+(, false)?>": (LOAD, STORE),
    r"forward_\w+<float, B?Float16, \d(, false)?>": (LOAD, HALF_STORE),
    r"forward_\w+<float, \w+, \d, true>": (LOAD,),  # tap-major, lanes store neighbouring elements
    "backward": (LOAD, STORE, COPY),
    "pool|moments|sums": (LOAD,),
    "gradient": (LOAD, STORE),
    "columns_from_pixels": (STORE,),
    "columns_from_channels": (LOAD, STORE),
    "image_from_columns": (STORE,),
    "_tiles<": (COPY, STORE),
}

Resources = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def resources() -> dict[str, Resources]:
    """By architecture and kernel: what ptxas says."""
    for program in ("nvcc", "c++filt"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on PATH")
    jobs = [(architecture, source) for architecture in ARCHITECTURES for source in SOURCES]
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(lambda job: compiled(*job), jobs))
    merged: dict[str, Resources] = {architecture: {} for architecture in ARCHITECTURES}
    for (architecture, _), kernels in zip(jobs, found, strict=True):
        merged[architecture] |= kernels
    if UPDATE:
        write_table(nvcc=nvcc_release(), kernels=merged)
    return merged


def compiled(architecture: str, source: str) -> Resources:
    text = compile_cubin(source, architecture).with_suffix(".txt").read_text()
    kernels = {}
    for match in PROPERTIES.finditer(text):
        used = match["used"]
        kernels[demangled(match["name"])] = {
            "registers": number(r"Used (\d+) registers", used),
            "stack": int(match["stack"]),
            "spills": int(match["stores"]) + int(match["loads"]),
            "static_shared": number(r"(\d+) bytes smem", used),
        }
    return kernels


def number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


@functools.cache
def demangled(name: str) -> str:
    return short(subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip())


def short(name: str) -> str:
    """The kernel's name and template arguments, without namespaces and parameters."""
    return re.sub(r"^void |crossd_ops::(cuda::)?", "", name).rsplit(">(", 1)[0] + ">"


def write_table(**entries: object) -> None:
    table = {**json.loads(TABLE.read_text()), **entries}
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def expected() -> dict[str, Resources]:
    table = json.loads(TABLE.read_text())
    if table["nvcc"] != nvcc_release():
        pytest.skip(f"the table was made with nvcc {table['nvcc']}, here is {nvcc_release()}")
    kernels: dict[str, Resources] = table["kernels"]
    return kernels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resources_are_those_of_the_table(resources: dict[str, Resources], architecture: str) -> None:
    got, table = resources[architecture], expected()[architecture]
    assert sorted(got) == sorted(table), "kernels came or went: look at them, then write the table anew"
    worse = {}
    for name, use in got.items():
        allowed = {**table[name], "registers": table[name]["registers"] + REGISTER_TOLERANCE}
        if any(use[key] > allowed[key] for key in use):
            worse[name] = f"expected at most {allowed}, got {use}"
    assert worse == {}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(resources: dict[str, Resources], architecture: str) -> None:
    assert {name: use["spills"] for name, use in resources[architecture].items() if use["spills"]} == {}


def note_launches(csrc: Path) -> None:
    """launch() hands over what it was asked, and runs nothing."""
    source = csrc / "common" / "cuda" / "device.cuh"
    text, runs = source.read_text(), "emu::launch(grid, block, shared_bytes, [&] { kernel(arguments...); }, kernel);"
    assert text.count(runs) == 1, "the launch in the emulator is written in another way"
    noted = text.replace(runs, "note_launch(reinterpret_cast<const void*>(kernel), block, shared_bytes);")
    declared = "void note_launch(const void* kernel, dim3 block, size_t shared_bytes);\nnamespace crossd_ops::cuda {"
    source.write_text(noted.replace("namespace crossd_ops::cuda {", declared, 1))


def test_threads_and_dynamic_shared_memory_of_each_launch_are_those_of_the_table() -> None:
    """By the launchers themselves, over sizes, types and layouts; every instantiation is launched by one of them."""
    reason = why_not("symbols")
    if reason is not None:
        pytest.skip(reason)
    csrc, folder = altered_sources("launches", note_launches)
    process = run_program(compile_program(EMULATOR / "launches.cpp", "symbols", csrc=csrc, folder=folder))
    assert process.returncode == 0, process.stdout
    found: dict[str, set[tuple[int, int]]] = {}
    for line in process.stdout.splitlines():
        name, threads, shared = line.split("\t")
        found.setdefault(short(name), set()).add((int(threads), int(shared)))
    got = {
        name: {"threads": sorted({threads for threads, _ in uses}), "dynamic_shared": sorted({use for _, use in uses})}
        for name, uses in found.items()
    }
    if UPDATE:
        write_table(launches=got)
    table = json.loads(TABLE.read_text())
    assert set(got) == {name for name in table["kernels"]["sm_80"] if not name.startswith("__internal")}
    assert got == table["launches"]
    assert max(shared for uses in found.values() for _, shared in uses) <= LEAST_SHARED_LIMIT


def disassembler() -> str | None:
    """nvdisasm of the toolkit, or of the wheel nvidia-cuda-nvdisasm."""
    on_path = shutil.which("nvdisasm")
    if on_path:
        return on_path
    try:
        files = metadata.files("nvidia-cuda-nvdisasm") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "nvdisasm"), None)


@pytest.fixture(scope="module")
def instructions(resources: dict[str, Resources]) -> dict[str, dict[str, str]]:
    """By architecture and kernel: its machine code as text."""
    program = disassembler()
    if program is None:
        pytest.skip("nvdisasm is neither on PATH nor installed as nvidia-cuda-nvdisasm")
    code: dict[str, dict[str, str]] = {}
    for architecture in resources:
        sections = []
        for source in SOURCES:
            command = [program, "-c", str(compile_cubin(source, architecture))]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            sections += re.split(r"^\s*\.section\s+\.text\.", text, flags=re.MULTILINE)[1:]
        code[architecture] = {demangled(re.match(r"\w+", body)[0]): body for body in sections}  # type: ignore[index]
    return code


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectorised_kernels_move_16_bytes_at_a_time(instructions: dict[str, dict[str, str]], architecture: str) -> None:
    vectorised = {name: code for name, code in instructions[architecture].items() if VECTORISED.search(name)}
    directions = {direction for direction in WIDE_ACCESS for name in vectorised if re.search(direction, name)}
    assert directions == set(WIDE_ACCESS)
    missing = [
        (name, access)
        for name, code in vectorised.items()
        for direction, accesses in WIDE_ACCESS.items()
        for access in accesses
        if re.search(direction, name) and not re.search(access, code)
    ]
    assert missing == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_are_multiplied_by_tensor_cores(instructions: dict[str, dict[str, str]], architecture: str) -> None:
    """A step's copies and products are in one loop, and nothing there goes by generic addresses."""
    kernels = {name: code for name, code in instructions[architecture].items() if "_tiles<" in name}
    assert len(kernels) == 24
    for name, code in kernels.items():
        (loop,) = (loop for loop in innermost_loops(code) if "HMMA" in loop)
        assert re.search(r"\bHMMA\.(16816\.F32|1688\.F32\.TF32)", loop), name
        # Operands whose rows are those of the reduction are transposed.
        plain, transposed = not name.startswith("grad_kernels"), name.startswith("grad") and "float" not in name
        assert bool(re.search(r"\bLDSM\.16\.M88\.4", loop)) == plain, name
        assert bool(re.search(r"\bLDSM\.16\.MT88\.4", loop)) == transposed, name
        assert re.search(COPY, loop), name
        assert not re.search(r"\b(LD|ST)(\.|\s)", code), name


def innermost_loops(code: str) -> list[str]:
    """From a label to the jump back to it that is nearest."""
    labels = {match[1]: match.start() for match in re.finditer(r"^(\.L_\w+):", code, re.MULTILINE)}
    jumps = [(match.start(), labels.get(match[1], len(code))) for match in re.finditer(JUMP, code)]
    return [code[to:at] for at, to in jumps if to < at]


def without_reduction(code: str) -> str:
    """Machine code without the subroutine for angles over 1e5, from which the sine of a double takes whole turns."""
    parts = re.split(r"^(\$\S+):$", code, flags=re.MULTILINE)
    kept = [body for label, body in zip(parts[1::2], parts[2::2], strict=True) if REDUCTION not in label]
    return "".join([parts[0], *kept])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_uses_local_memory(
    resources: dict[str, Resources], instructions: dict[str, dict[str, str]], architecture: str
) -> None:
    """LDL and STL: an array that is indexed at run time, or a spill; both make a fast kernel slow.

    The heads' angles are pi / 4 at most: the subroutine with an array of its own is there, and never called.
    """
    for name, code in instructions[architecture].items():
        assert not re.search(r"\b(LDL|STL)\b", without_reduction(code)), name
        assert (f"{REDUCTION}:" in code) == (resources[architecture][name]["stack"] > 0), name


def test_no_kernel_uses_float_atomics(instructions: dict[str, dict[str, str]]) -> None:
    """Sums in a fixed order are what makes results reproducible bit by bit."""
    atomics = [
        name
        for kernels in instructions.values()
        for name, code in kernels.items()
        if re.search(r"\b(RED|ATOM)\w*\.\S*F(16|32|64)", code)
    ]
    assert atomics == []


@pytest.mark.parametrize("arguments", [("ruff", "check", "."), ("mypy",)], ids=lambda arguments: arguments[0])
def test_python_is_clean(arguments: tuple[str, ...]) -> None:
    run_linter(*arguments)


def test_sources_are_formatted() -> None:
    sources = [str(path) for path in sorted(CSRC.rglob("*")) if path.suffix in (".cpp", ".h", ".cu", ".cuh")]
    assert len(sources) > 30
    run_linter("clang-format", "--dry-run", "--Werror", *sources)


def run_linter(name: str, *arguments: str) -> None:
    beside = Path(sys.executable).with_name(name)  # of the environment, also where it is not activated
    program = str(beside) if beside.exists() else shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    process = subprocess.run([program, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, (process.stdout + process.stderr)[-4000:]
