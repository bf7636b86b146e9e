"""Line and branch coverage of the package, of the C++ code for the CPU, and of the CUDA sources in the emulator.

    python tests/coverage_report.py [--report] [--full]        (make coverage)

Python: coverage.py over the tests. C++: a library built with gcov, in build/coverage, loaded by a copy of the package
that the same tests import, once for each instruction set. CUDA: the programs that check the kernels in the emulator,
built with gcov; what only nvcc compiles is not among their lines. `--report` reports on the last run again; `--full`
runs every test, without it those of `LONG_TESTS` are left out. Exit status 1 where a figure is below its bound.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emulator import build
from emulator.cpu_build import cpu_program

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "coverage"
SITE, LIBRARY, PROGRAMS = FOLDER / "site", FOLDER / "library", FOLDER / "programs"
PYTHON_JSON = FOLDER / "python.json"
REASONS = json.loads((ROOT / "tests" / "coverage_reasons.json").read_text())
BOUNDS = {"Python": 95.0, "C++ (CPU)": 90.0, "CUDA (emulated)": 90.0}
# Atomic counters: kernels run on several threads, and lost counts could make a line seem unreached.
GCOV = ("--coverage", "-fprofile-update=atomic")
# Programs of the emulator, and the groups of cases that they are asked for.
CUDA_CHECKS = {"check_kernels": ("dtypes", "kernels", "layouts", "sizes", "special")}
CUDA_CHECKS |= {"rotation_head_check": (), "cuda_head_check": ()}
CUDA_CHECKS |= {"tiles_check": (), "tiles_input_check": (), "tiles_kernels_check": (), "shifted_columns_check": ()}
# Tests that build, train or measure in other processes: minutes, of which the counters see nothing.
LONG_TESTS = (
    *("aot_inductor", "build", "compile_network", "cpp", "cuda_kernels_emulated", "distributed", "documentation"),
    *("emulator", "fsdp", "gpu_run", "benchmarks", "network_benchmark", "train", "train_data", "train_state"),
    *("training", "transfer", "convolution_methods", "integration", "mutants", "soak"),
    *("instruction_sets", "static_kernels", "wheel"),
)
# The first runs all tests; the others run what calls the kernels, as processors of fewer instructions would.
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
KERNEL_TESTS = ("functional", "rotation_head")


@dataclass
class Coverage:
    """Of one file: executable lines and branches, each with whether it was reached."""

    lines: dict[int, bool] = field(default_factory=dict)
    branches: dict[tuple[int, int], bool] = field(default_factory=dict)


def main() -> int:
    """Runs the tests, unless told to report only; prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--report", action="store_true", help="report on the last run, run nothing")
    parser.add_argument("--full", action="store_true", help=f"run these tests too: {', '.join(LONG_TESTS)}")
    options = parser.parse_args()
    if not options.report:
        shutil.rmtree(PROGRAMS, ignore_errors=True)
        build_library()
        run_programs()
        run_tests(full=options.full)
    return report()


def build_library() -> None:
    """libcrossd_ops.so with counters, in a copy of the package."""
    prefix = subprocess.check_output(
        [sys.executable, "-c", "import torch; print(torch.utils.cmake_prefix_path)"], text=True
    ).strip()
    flags = [f"-DCMAKE_CXX_FLAGS={' '.join(GCOV)}", f"-DCMAKE_PREFIX_PATH={prefix}", "-DCROSSD_CUDA=OFF"]
    run("cmake", "-S", str(ROOT), "-B", str(LIBRARY), *flags)
    run("cmake", "--build", str(LIBRARY), "--parallel", str(os.cpu_count() or 1))
    for counts in LIBRARY.rglob("*.gcda"):
        counts.unlink()
    shutil.rmtree(SITE, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "lib")
    shutil.copytree(ROOT / "crossd_ops", SITE / "crossd_ops", ignore=ignored)
    (SITE / "crossd_ops" / "lib").mkdir()
    shutil.copy(LIBRARY / "libcrossd_ops.so", SITE / "crossd_ops" / "lib")
    for beside in ("csrc", "cmake"):  # where the package looks for headers
        (SITE / beside).symlink_to(ROOT / beside)
    written = ROOT / "crossd_ops" / "lib" / "build.json"
    if written.exists():
        facts = {**json.loads(written.read_text()), "cuda_version": None, "cuda_architectures": []}
        (SITE / "crossd_ops" / "lib" / "build.json").write_text(json.dumps(facts))


def run_programs() -> None:
    """The checks of the kernels: those for CUDA in the emulator, those for the CPU with each instruction set."""
    build.VARIANTS["coverage"] = ("-O1", *GCOV)
    for name, groups in CUDA_CHECKS.items():
        program = PROGRAMS / name / "program"
        program.parent.mkdir(parents=True)
        run(*build._command("coverage", build.CSRC, False), str(build.EMULATOR / f"{name}.cpp"), "-o", str(program))
        run(str(program), "--one-order", *groups)
    for counts in build.CACHE.glob("cpu-coverage/*.gcda"):
        counts.unlink()
    for name in ("columns_check", "head_check", "image_rows_check", "rotation_head_check"):
        program = cpu_program(build.EMULATOR / f"{name}.cpp", "coverage")
        for instruction_set in INSTRUCTION_SETS:
            run(str(program), CROSSD_CPU_CAPABILITY=instruction_set)


def run_tests(*, full: bool) -> None:
    """All tests with the first instruction set, those of the kernels with the others, one process each."""
    left_out = () if full else LONG_TESTS
    every = sorted(path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py"))
    for instruction_set in INSTRUCTION_SETS:
        first = instruction_set == INSTRUCTION_SETS[0]
        names = [name for name in every if name not in left_out] if first else KERNEL_TESTS
        # By its path: the name would be taken for the folder of the checkout.
        arguments = [f"--cov={SITE / 'crossd_ops'}", "--cov-branch", f"--cov-report=json:{PYTHON_JSON}"]
        arguments += ["--cov-append"] if not first else []
        # Not `python -m pytest`, which would put the checkout before the copy.
        run(
            str(Path(sys.executable).with_name("pytest")),
            *("-q", "-p", "no:cacheprovider", *arguments, *(f"tests/test_{name}.py" for name in names)),
            check=False,
            CROSSD_CPU_CAPABILITY=instruction_set,
            PYTHONPATH=f"{SITE}{os.pathsep}{ROOT}",
            PYTHONSAFEPATH="1",  # the same of what tests start with python -m
            COVERAGE_FILE=str(FOLDER / ".coverage"),
            OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
        )


def run(*command: str, check: bool = True, **environment: str) -> None:
    """A command from the root of the checkout; its output is shown."""
    print("+", " ".join(command[:6]), "..." if len(command) > 6 else "", flush=True)
    status = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode
    if status and check:
        raise SystemExit(f"{command[0]}: expected exit status 0, got {status}")
    if status:
        print(f"{command[0]}: exit status {status}; the figures are those of what ran", flush=True)


def python_coverage() -> dict[str, Coverage]:
    """Of each file of the package."""
    files = {}
    for name, entry in json.loads(PYTHON_JSON.read_text())["files"].items():
        lines = {**dict.fromkeys(entry["executed_lines"], True), **dict.fromkeys(entry["missing_lines"], False)}
        branches = {tuple(branch): True for branch in entry["executed_branches"]}
        branches |= {tuple(branch): False for branch in entry["missing_branches"]}
        path = Path(name) if Path(name).is_absolute() else ROOT / name
        base = SITE if path.is_relative_to(SITE) else ROOT
        files[str(path.relative_to(base))] = Coverage(lines, branches)
    return files


def gcov_records(folders: list[Path]) -> Iterator[dict[str, object]]:
    """What gcov says of each file in the objects below the folders; those that no run reached included."""
    for folder in folders:
        for notes in sorted(folder.rglob("*.gcno")):
            output = subprocess.run(
                ["gcov", "--json-format", "--branch-probabilities", "--stdout", str(notes)],
                cwd=notes.parent,
                capture_output=True,
                check=True,
            ).stdout
            text = gzip.decompress(output) if output[:2] == b"\x1f\x8b" else output
            for line in text.splitlines():
                record = json.loads(line)
                for entry in record["files"]:
                    yield {"path": str(Path(record["current_working_directory"], entry["file"]).resolve()), **entry}


def cpp_coverage(folders: list[Path], *, cuda: bool) -> dict[str, Coverage]:
    """Of each file of csrc, in folders named cuda or others: reached where any object and any instantiation reached it.

    Branches that throw are left out: a compiler puts one behind every call.
    """
    files: defaultdict[str, Coverage] = defaultdict(Coverage)
    for entry in gcov_records(folders):
        path = Path(str(entry["path"]))
        if not path.is_relative_to(build.CSRC) or (path.parent.name == "cuda") is not cuda:
            continue
        found = files[str(path.relative_to(ROOT))]
        lines = entry["lines"]
        assert isinstance(lines, list)
        for line in lines:
            number = line["line_number"]
            found.lines[number] = found.lines.get(number, False) or line["count"] > 0
            branches = [branch for branch in line["branches"] if not branch["throw"]]
            for index, branch in enumerate(branches):
                key = (number, index)
                found.branches[key] = found.branches.get(key, False) or branch["count"] > 0
    return dict(files)


def report() -> int:
    """Prints a table, and the lines that nothing reached with their reasons; 1 where a figure is below its bound."""
    parts = {
        "Python": python_coverage(),
        "C++ (CPU)": cpp_coverage([LIBRARY, build.CACHE / "cpu-coverage"], cuda=False),
        "CUDA (emulated)": cpp_coverage([PROGRAMS], cuda=True),
    }
    too_low, unexplained = [], 0
    print(f"\n{'':48}{'lines':>8}{'reached':>9}{'':>9}{'branches':>10}{'reached':>9}")
    for title, files in parts.items():
        share = _print_row(title, list(files.values()))
        if share < BOUNDS[title]:
            too_low.append(f"{title}: {share:.1f} % of the lines, expected at least {BOUNDS[title]:.0f} %")
        for name, coverage in sorted(files.items()):
            _print_row(f"  {name}", [coverage])
    print("\nLines that nothing reached:")
    for files in parts.values():
        for name, coverage in sorted(files.items()):
            for first, last in _ranges(sorted(line for line, reached in coverage.lines.items() if not reached)):
                reason = _reason(name, first, last)
                unexplained += reason is None
                print(f"  {name}:{first}" + (f"-{last}" if last > first else "") + f": {reason or 'NO REASON GIVEN'}")
    print(f"\n{unexplained} without a reason in tests/coverage_reasons.json")
    print("\n".join(too_low) if too_low else "every bound holds")
    return 1 if too_low else 0


def _print_row(title: str, files: list[Coverage]) -> float:
    """Prints sums over the files; returns the percentage of lines."""
    lines = [reached for coverage in files for reached in coverage.lines.values()]
    branches = [reached for coverage in files for reached in coverage.branches.values()]
    share = 100 * sum(lines) / max(len(lines), 1)
    of_branches = f"{100 * sum(branches) / len(branches):8.1f}%" if branches else ""
    print(f"{title:48}{len(lines):8}{sum(lines):9}{share:8.1f}%{len(branches):10}{of_branches:>9}")
    return share


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as first and last."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = ranges[-1][0], number
        else:
            ranges.append((number, number))
    return ranges


def _reason(name: str, first: int, last: int) -> str | None:
    """Why these lines are not reached: that of the first entry whose file and whose text, if it names one, fit."""
    text = "\n".join((ROOT / name).read_text().splitlines()[first - 1 : last])
    for entry in REASONS:
        if Path(name).match(entry["file"]) and entry.get("text", "") in text:
            return str(entry["reason"])
    return None


if __name__ == "__main__":
    sys.exit(main())
