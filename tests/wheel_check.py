"""Checks a wheel of the package: its files, symbols, tag and size, and that it runs in fresh environments.

    python tests/wheel_check.py dist/crossd_ops-0.1.0-py3-none-manylinux_2_34_x86_64.whl
    python tests/wheel_check.py WHEEL --torch 2.11.0 --torch newest --python python3.10 --python python3.13

With --torch a fresh environment is made for every pair of torch and Python, the wheel installed as a user would, and
`python -m crossd_ops --self-test` run from an empty folder. A CUDA torch takes 5 GB of disk while it is tested.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "crossd_ops/lib/libcrossd_ops.so"
UNSTABLE = re.compile(r"\b(at|c10)::|\b_?Py[A-Z_]")  # C++ symbols of torch, and the C API of Python
NEEDED = re.compile(r"lib(torch_cpu|c10)\.so|lib(stdc\+\+|gcc_s|m|c|pthread|dl|rt)\.so\.\d+|ld-linux-x86-64\.so\.2")
# The newest GLIBCXX symbols of the systems that have this glibc at least, by PEP 600: from auditwheel's policies.
GLIBCXX = {"2.17": "3.4.19", "2.28": "3.4.24", "2.31": "3.4.28", "2.34": "3.4.29", "2.35": "3.4.30", "2.39": "3.4.33"}
MAX_WHEEL, MAX_LIBRARY = 16 << 20, 24 << 20  # bytes: three architectures' kernels and PTX, not a second CUDA library


def output(*command: str | Path, **options: object) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    if result.returncode:
        raise SystemExit(f"wheel_check: {' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def expected_files() -> set[str]:
    """What the wheel has to carry, without its metadata."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "crossd_ops").rglob("*.py")}
    for folder, target in (("csrc/include", "include"), ("cmake", "lib/cmake/crossd_ops")):
        source = ROOT / folder
        files |= {f"crossd_ops/{target}/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()}
    return files | {"crossd_ops/py.typed", LIBRARY, "crossd_ops/lib/build.json"}


def content_problems(names: set[str]) -> list[str]:
    """What is missing among a wheel's files, and what is there that should not be."""
    files = {name for name in names if ".dist-info/" not in name}
    metadata = {name.split("/", 1)[1] for name in names - files}
    expected = expected_files()
    problems = [f"missing: {name}" for name in sorted(expected - files)]
    problems += [f"not expected: {name}" for name in sorted(files - expected)]
    return problems + [f"missing: {name}" for name in sorted({"METADATA", "RECORD", "licenses/LICENSE"} - metadata)]


def symbol_versions(library: Path) -> dict[str, str]:
    """The newest version of each set of symbols, such as GLIBC, that the library refers to."""
    newest: dict[str, str] = {}
    for name, version in re.findall(r"Name: ([A-Z]+)_([\d.]+)", output("readelf", "-V", library)):
        newest[name] = max(newest.get(name, "0"), version, key=numbers)
    return newest


def symbol_problems(library: Path, platform: str) -> list[str]:
    """Symbols that tie the library to one Python or torch, libraries that not every torch has, a wrong platform tag."""
    symbols = [line[16:].split(maxsplit=1)[1] for line in output("nm", "-D", "-C", library).splitlines()]
    problems = [f"symbol: {symbol}" for symbol in symbols if UNSTABLE.search(symbol)]
    # Found in torch's libraries, which happen to export them, such symbols of the C++ library have no version.
    problems += [f"symbol without a version: {name}" for name in symbols if re.match(r"U std::(?!.*@)", name)]
    links = re.findall(r"NEEDED.*\[(.+?)\]", output("readelf", "-d", library))
    problems += [f"links {name}" for name in links if not NEEDED.fullmatch(name)]
    versions = symbol_versions(library)
    glibc = max(versions["GLIBC"], "2.17", key=numbers)
    if not platform.startswith(f"manylinux_{glibc.replace('.', '_')}_"):
        problems.append(f"tag: the library needs glibc {glibc}, the tag says {platform}")
    newest = GLIBCXX[max((known for known in GLIBCXX if numbers(known) <= numbers(glibc)), key=numbers)]
    if numbers(versions.get("GLIBCXX", "0")) > numbers(newest):
        problems.append(f"GLIBCXX_{versions['GLIBCXX']}: systems with glibc {glibc} may have {newest} at most")
    return problems


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def wheel_problems(wheel: Path) -> list[str]:
    """Everything that is wrong with the file; prints its figures."""
    _, _, python, abi, platform = wheel.stem.split("-")
    problems = [] if (python, abi) == ("py3", "none") else [f"tag: expected py3-none, got {python}-{abi}"]
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        problems += content_problems(names)
        library = Path(archive.extract(LIBRARY, folder))
        problems += symbol_problems(library, platform)
        sizes, versions = (wheel.stat().st_size, library.stat().st_size), symbol_versions(library)
    for name, size, limit in zip(("wheel", "library"), sizes, (MAX_WHEEL, MAX_LIBRARY), strict=True):
        print(f"{name}: {size / 2**20:.1f} MiB of {limit / 2**20:.0f} allowed")
        if size > limit:
            problems.append(f"{name}: {size} bytes, allowed are {limit}")
    print(f"{len(names)} files; symbols up to {', '.join(f'{name} {newest}' for name, newest in versions.items())}")
    return problems


def try_out(wheel: Path, python: str, torch: str) -> str:
    """Installs torch and the wheel into a fresh environment and runs the self-test there; a line of figures."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output(python, "-m", "venv", f"{folder}/venv")
        interpreter, empty = f"{folder}/venv/bin/python", Path(folder, "empty")
        empty.mkdir()
        install = [interpreter, "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        output(*install, "torch" if torch == "newest" else f"torch=={torch}")
        output(*install, wheel.resolve())
        command = [interpreter, "-m", "crossd_ops", "--self-test", "--json"]
        result = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"wheel_check: {python}, torch {torch}: {result.stdout[-4000:]}\n{result.stderr}")
    report = json.loads(result.stdout)
    checks = report["self_test"]["checks"]
    worst = max(check["error"] / check["bound"] for check in checks)
    versions, backends = report["versions"], {device["device"]: device["backend"] for device in report["devices"]}
    return (
        f"Python {versions['python']}, torch {versions['torch']} (CUDA {versions['cuda_of_torch']}): {backends}, "
        f"{len(checks)} checks passed, worst at {worst:.2f} of its bound, {time.perf_counter() - started:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", action="append", default=[], help='such as 2.11.0, or "newest"')
    parser.add_argument("--python", action="append", default=[], help="interpreters; default: the one that runs this")
    options = parser.parse_args()
    problems = wheel_problems(options.wheel)
    if problems:
        raise SystemExit("\n".join([f"wheel_check: {options.wheel.name}", *problems]))
    for torch, python in product(options.torch, options.python or [sys.executable]):
        print(try_out(options.wheel, python, torch), flush=True)


if __name__ == "__main__":
    main()
