"""Compiles C++ programs with the emulator into ``build/emulator``, once for each state of their sources."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EMULATOR = Path(__file__).resolve().parent
REPOSITORY = EMULATOR.parents[1]
CSRC = REPOSITORY / "csrc"
METER = EMULATOR / "meter"
CACHE = REPOSITORY / "build" / "emulator"

# Strict IEEE arithmetic in all of them: results of two builds and of two orders of threads are compared bit by bit.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": ("-O1",),
    "ucontext": ("-O1", "-DEMU_UCONTEXT"),
    "symbols": ("-O1", "-rdynamic", "-ldl"),  # functions can be asked for their names
    "thread": ("-O1", "-finline-small-functions", "-g1", "-fsanitize=thread"),
    # -Og: UBSan's checks take -O1 three times as long to compile, and run no faster.
    "address": ("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    # Instrumented as for ThreadSanitizer, and linked with the meter in place of its run-time, which puts lanes together
    # where the code does: in the order of the source, and without copies of it for each way that leads there. A struct
    # is copied at once, whatever becomes of its members.
    "meter": (
        *("-O1", "-g1", "-DEMU_METER", "-fsanitize=thread", "-fsanitize-coverage=trace-pc"),
        *("-fno-reorder-blocks", "-fno-thread-jumps", "-fno-tree-sra"),
    ),
}

# What a check of kernels is run with: of all cases one order of threads shows the values, of a few three show that it
# changes nothing. Sanitizers see in one what they are for.
RUNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "plain": (("--one-order",), ("brief",)),
    "address": (("--one-order", "brief"),),
    "thread": (("--one-order", "brief"),),
}

# Leaks are not looked for: LeakSanitizer needs ptrace, which containers often forbid.
SANITIZER_ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0",
    "TSAN_OPTIONS": "halt_on_error=1 exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def compiler() -> str | None:
    """The GNU C++ compiler (its sanitizers are what the emulator is written for), or None."""
    return shutil.which("g++")


def compile_program(
    source: Path,
    variant: str = "plain",
    *,
    csrc: Path = CSRC,
    folder: Path = CACHE,
    shared: bool = False,
    flags: Sequence[str] = (),
) -> Path:
    """The program, or the shared library, made from ``source``; RuntimeError with the compiler's text."""
    digest = _digest(source, variant, csrc, [*_command(variant, csrc, shared), *flags])
    target = folder / f"{source.stem}-{variant}-{digest}{'.so' if shared else ''}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / f".{source.stem}-{variant}.lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
        if target.exists():
            return target
        result = Path(scratch) / "result"
        for command in _steps(source, variant, csrc, shared, result):
            process = subprocess.run([*command, *flags], capture_output=True, text=True)
            if process.returncode:
                raise RuntimeError(f"{source.name} ({variant}) does not compile:\n{process.stderr[:6000]}")
        for outdated in folder.glob(f"{source.stem}-{variant}-*"):
            outdated.unlink(missing_ok=True)
        os.replace(result, target)  # at once: another process may be looking for it
    return target


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Keeps other processes, which would build the same, waiting."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def altered_sources(name: str, alter: Callable[[Path], None]) -> tuple[Path, Path]:
    """A copy of ``csrc`` after ``alter(copy)``, and a folder for what is compiled from it."""
    folder = CACHE / name
    csrc = folder / "csrc"
    shutil.rmtree(csrc, ignore_errors=True)
    shutil.copytree(CSRC, csrc, ignore=shutil.ignore_patterns("*.cpp"))
    alter(csrc)
    return csrc, folder


def in_parallel(jobs: Sequence[Callable[[], Path]]) -> list[Path]:
    """The results of the jobs, two of which run at a time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def run_program(program: Path, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a program; stdout and stderr come together in ``stdout``."""

    def run(prefix: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, str(program), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **SANITIZER_ENVIRONMENT},
        )

    process = run([])
    if process.returncode and "unexpected memory mapping" in process.stdout and shutil.which("setarch"):
        process = run(["setarch", "--addr-no-randomize"])  # TSan of older compilers on kernels that randomise more bits
    return process


def assert_kernels_pass(program: Path, variant: str) -> None:
    """Asserts that a check program of kernels passes in the runs of its variant."""
    for options in RUNS[variant]:
        assert_check_passes(program, *options)


def assert_check_passes(program: Path, *arguments: str) -> None:
    """Asserts that a check program ends well, and says of its cases that none fails."""
    process = run_program(program, *arguments)
    assert process.returncode == 0, process.stdout[-3000:]
    assert process.stdout.splitlines()[-1].startswith("0 of "), process.stdout[-3000:]


@functools.cache
def why_not(variant: str) -> str | None:
    """The reason why programs of this variant cannot be built and run here, or None."""
    if compiler() is None:
        return "g++ is not installed"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "probe.cpp"
        source.write_text("int main() { return 0; }\n")
        try:
            process = run_program(compile_program(source, variant, folder=Path(scratch)))
        except RuntimeError as error:
            return f"g++ cannot build with {' '.join(VARIANTS[variant])}: {str(error)[-200:]}"
    return None if process.returncode == 0 else f"a program of variant {variant} does not run: {process.stdout[-200:]}"


def _command(variant: str, csrc: Path, shared: bool) -> list[str]:
    gxx = compiler()
    if gxx is None:
        raise RuntimeError("the emulator needs g++, which is not installed")
    library = ["-shared", "-fPIC", "-fvisibility=hidden"] if shared else []
    includes = [f"-I{csrc}", f"-I{EMULATOR / 'cuda_on_cpu'}", f"-I{EMULATOR}"]
    return [gxx, "-DCUDA_ON_CPU", "-ffp-contract=off", *VARIANTS[variant], *library, *includes]


def _steps(source: Path, variant: str, csrc: Path, shared: bool, result: Path) -> list[list[str]]:
    """The commands that make the result."""
    command = _command(variant, csrc, shared)
    if variant != "meter":
        return [[*command, str(source), "-o", str(result)]]
    plain, kernels, meter = _command("plain", csrc, shared), f"{result}-kernels.o", f"{result}-meter.o"
    return [
        [*command, "-c", str(source), "-o", kernels],
        [*plain, "-O2", "-c", str(METER / "meter.cpp"), "-o", meter],
        [*plain, kernels, meter, "-ldl", "-Wl,--no-undefined", "-o", str(result)],
    ]


def _digest(source: Path, variant: str, csrc: Path, command: Sequence[str]) -> str:
    # Programs of the mutants include a check's source.
    files = [source, *csrc.rglob("*.h"), *csrc.rglob("*.cuh"), *EMULATOR.rglob("*.h"), *EMULATOR.glob("*.cpp")]
    files = [file for file in files if METER not in file.parents]
    files += METER.glob("*") if variant == "meter" else []
    return digest_of(files, _compiler_version(), *command)


def digest_of(files: Iterable[Path], *words: str) -> str:
    """Names what is compiled from these files, by a compiler and with options that the words tell."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in sorted(set(files)):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([compiler() or "g++", "--version"], capture_output=True, text=True).stdout
