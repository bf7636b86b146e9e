"""The wheel and the source distribution: what they carry, how the wheel is tagged, and that it works where it lands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import wheel_check

ROOT = Path(__file__).resolve().parents[2]

BUILT = "crossd_ops/lib/"

# A compiler that writes small files without compiling, so that the lists of files can be compared in seconds.
COMPILER = """#!/bin/sh
case "$*" in *--version*|*-dumpversion*|*-dumpfullversion*) exec c++ "$@" ;; esac
printf '#include <stdio.h>\\nint stub(void) {{ return puts(""); }}' > "{folder}/stub.c"
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then exec cc -shared -fPIC "{folder}/stub.c" -o "$2"; fi; shift; done
"""


def output(*command: str | Path, **options: object) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build_wheel(source: Path, target: Path, **environment: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        target,
        ".",
    ]
    output(*command, cwd=source, env={**os.environ, "CROSSD_BINDINGS": "0", **environment})
    (wheel,) = target.glob("*.whl")
    return wheel


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def run_installed(site: Path, folder: Path, *arguments: str | Path) -> str:
    """Python with this environment's torch, the installed wheel, and nothing of the checkout."""
    return output(sys.executable, *arguments, cwd=folder, env={**os.environ, "PYTHONPATH": str(site)})


def tracked() -> list[str]:
    """The files of the project, also those not yet committed, but nothing that git ignores."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    names = output("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return [name for name in names if (ROOT / name).exists() and not name.startswith(BUILT)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project as a clone has it: setuptools looks at every file, also at those of .venv."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    (checkout / "tests" / ".mypy_cache").mkdir()
    (checkout / "tests" / ".mypy_cache" / "cache.json").write_text("{}")
    script = "import sys, build_backend; build_backend.build_sdist(sys.argv[1])"
    output(sys.executable, "-W", "ignore", "-c", script, folder, cwd=checkout)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, sdist: Path) -> Path:
    """The folder that a wheel is installed into: built from the source distribution with the library of this checkout.

    What the compiler makes of the sources is tested elsewhere (test_build.py) and by `make wheel-check`.
    """
    library = ROOT / wheel_check.LIBRARY
    if not library.exists():
        pytest.skip(f"{library} was not built")
    folder = tmp_path_factory.mktemp("installed")
    output(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        folder / "site",
        stub_wheel(sdist),
    )
    for name in (wheel_check.LIBRARY, "crossd_ops/lib/build.json"):
        shutil.copy(ROOT / name, folder / "site" / name)
    return folder / "site"


def stub_wheel(source: Path) -> Path:
    """A wheel whose library is a stub."""
    target = source.parent / f"wheel-{source.name}"
    if not target.exists():
        target.mkdir()
        compiler = target / "c++"
        compiler.write_text(COMPILER.format(folder=target))
        compiler.chmod(0o755)
        build_wheel(source, target, CXX=str(compiler), CROSSD_CUDA="0")
    return next(target.glob("*.whl"))


# --- the source distribution ---


def test_sdist_carries_every_source(sdist: Path, checkout: Path) -> None:
    carried = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    needed = [
        name for name in tracked() if re.match(r"(csrc|cmake|tests|crossd_ops)/|[^/]+\.(py|toml|txt)$|[A-Z]", name)
    ]
    assert len(needed) > 100
    assert [name for name in needed if name not in carried] == []
    assert [name for name in carried if "_cache" in name or name.endswith((".so", ".pyc"))] == []


def test_sdist_builds_the_wheel_of_the_checkout(sdist: Path) -> None:
    assert wheel_check.content_problems(files(stub_wheel(sdist))) == []


# --- the wheel ---


def test_make_builds_checks_and_tries_the_wheel() -> None:
    lines = output(
        "make",
        "--no-print-directory",
        "-n",
        "wheel-check",
        "WHEEL_TORCHES=2.11.0 newest",
        "WHEEL_PYTHONS=python3.10",
        cwd=ROOT,
    )
    build, check, trial = lines.splitlines()[-3:]
    assert build.startswith("CROSSD_BINDINGS=0 ") and " pip wheel " in build
    assert check.endswith("tests/wheel_check.py dist/*.whl")
    assert trial.endswith("tests/wheel_check.py dist/*.whl --torch 2.11.0 --torch newest --python python3.10")


def test_wheel_is_for_every_python(sdist: Path) -> None:
    assert re.fullmatch(r"crossd_ops-[\d.]+-py3-none-\w+\.whl", stub_wheel(sdist).name)


def test_library_fits_the_systems_that_the_tag_names(compiled_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ROOT / wheel_check.LIBRARY
    glibc = wheel_check.symbol_versions(library)["GLIBC"].replace(".", "_")
    assert wheel_check.symbol_problems(library, f"manylinux_{glibc}_x86_64") == []
    (problem,) = wheel_check.symbol_problems(library, "manylinux_2_17_x86_64")
    assert problem.startswith("tag: the library needs glibc 2.")
    monkeypatch.setattr(wheel_check, "GLIBCXX", {"2.17": "3.4.1"})
    (problem,) = wheel_check.symbol_problems(library, f"manylinux_{glibc}_x86_64")
    assert problem.startswith("GLIBCXX_3.4.") and problem.endswith("may have 3.4.1 at most")
    assert library.stat().st_size < wheel_check.MAX_LIBRARY


def test_check_finds_what_it_looks_for(tmp_path: Path) -> None:
    names = wheel_check.expected_files() | {
        f"x.dist-info/{name}" for name in ("METADATA", "RECORD", "licenses/LICENSE")
    }
    assert wheel_check.content_problems(names) == []
    wrong = (names | {"tests/test_x.py", "crossd_ops/_C.so"}) - {"crossd_ops/py.typed"}
    assert wheel_check.content_problems(wrong) == [
        "missing: crossd_ops/py.typed",
        "not expected: crossd_ops/_C.so",
        "not expected: tests/test_x.py",
    ]
    library = tmp_path / "lib.so"
    source = "#include <string>\nextern int PyLong_x(); namespace c10 { extern int y(); }\n"
    source += "int f() { return PyLong_x() + c10::y() + std::stoi(std::string()); }"
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    problems = wheel_check.symbol_problems(library, "manylinux_2_99_x86_64")
    assert any("PyLong_x" in problem for problem in problems) and any("c10::y" in problem for problem in problems)
    assert any(problem.startswith("tag: ") for problem in problems)


def test_installed_wheel_passes_its_self_test(installed: Path, tmp_path: Path) -> None:
    report = json.loads(run_installed(installed, tmp_path, "-m", "crossd_ops", "--self-test", "--json"))
    assert report["built"]["library"] == str(installed / wheel_check.LIBRARY)
    assert report["self_test"]["passed"] and len(report["self_test"]["checks"]) > 200
    prefix = run_installed(installed, tmp_path, "-m", "crossd_ops", "--cmake-prefix-path").strip()
    include = run_installed(installed, tmp_path, "-m", "crossd_ops", "--include-path").strip()
    assert Path(prefix, "lib/cmake/crossd_ops/crossd_opsConfig.cmake").exists()
    assert Path(include, "crossd_ops/crossd_ops.h").exists() and Path(include).is_relative_to(installed)


CONSUMER = """
import torch
import crossd_ops

layer = crossd_ops.CrossDConv2d(3, 8, 3, padding=1)
result: torch.Tensor = layer(torch.randn(2, 3, 8, 8))
passed: bool = crossd_ops.self_test("cpu").passed
reveal_type(crossd_ops.fourier_shift(layer.weights_3d, torch.zeros(2, 3)))
wrong: int = crossd_ops.backend("cpu")
"""


def test_consumers_are_type_checked_against_the_installed_package(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "consumer.py").write_text(CONSUMER)
    # With the options and the folder of `make lint`, what mypy remembers of torch is read once.
    options = ["--strict", "--python-version=3.10", f"--cache-dir={ROOT / '.mypy_cache'}", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, "consumer.py"]
    environment = {**os.environ, "MYPYPATH": "", "PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == [
        'consumer.py:8: note: Revealed type is "torch._tensor.Tensor"',
        'consumer.py:9: error: Incompatible types in assignment (expression has type "str", variable has type "int")'
        "  [assignment]",
    ], result.stdout + result.stderr
    assert torch.__version__  # the consumer's torch is this one
