"""What every call of the GPU run begins with: the package is installed, whatever an older file says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import build
from benchmarks.gpu.parts import Settings
from crossd_ops.library import loaded

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "python -m pip install --no-index --no-build-isolation --no-deps --editable ."
IN_PLACE = "python setup.py build_ext --inplace egg_info"
ASK = "python -m crossd_ops"


class Programs:
    """Stands for programs.run: the commands, each with its exit status."""

    def __init__(self, **failing: int) -> None:
        self.failing = failing
        self.commands: list[str] = []
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], **environment: str) -> tuple[int, list[str]]:
        assert command[0] == sys.executable
        self.commands.append(" ".join(["python", *command[1:]]))
        self.environments.append(environment)
        name = {INSTALL: "install", IN_PLACE: "in_place", ASK: "ask"}[self.commands[-1]]
        return self.failing.get(name, 0), [f"{name} said this"]


def build_with(programs: Programs, monkeypatch: pytest.MonkeyPatch, *, dry_run: bool = False) -> dict[str, Any]:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(build, "program_versions", dict)
    monkeypatch.setattr(build, "run", programs)
    return build.build(Settings("cuda", dry_run, 100.0, None, lambda result: None))


def test_installs_offline_for_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs()
    result = build_with(programs, monkeypatch)
    assert result["passed"] and programs.commands == [INSTALL, ASK]
    assert programs.environments[0] == {"CROSSD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}


def test_builds_in_place_where_nothing_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(install=1)
    result = build_with(programs, monkeypatch)
    assert result["passed"] and programs.commands == [INSTALL, IN_PLACE, ASK]
    assert programs.environments[0] == programs.environments[1]
    assert [attempt["exit_status"] for attempt in result["attempts"]] == [1, 0]
    assert result["attempts"][0]["output"] == ["install said this"]


def test_a_library_of_other_sources_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    result = build_with(Programs(install=1, in_place=1), monkeypatch)
    assert not result["passed"] and result["faults"] == ["not built"]


def test_a_library_that_does_not_serve_the_gpu_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    result = build_with(Programs(ask=1), monkeypatch)
    assert not result["passed"] and result["faults"] == ["ask said this"]


def test_a_dry_run_leaves_the_environment_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs = Programs()
    monkeypatch.setattr(build, "_LIBRARY", tmp_path / "library")
    assert build_with(programs, monkeypatch, dry_run=True)["passed"]
    assert programs.commands == [IN_PLACE, ASK] and programs.environments[0] == {"CROSSD_CUDA": "0"}
    (tmp_path / "library").touch()
    programs = Programs()
    assert build_with(programs, monkeypatch, dry_run=True)["passed"]
    assert programs.commands == [ASK]


# In place of the compiler's minutes: the library that is there.
SETUP = f"""
import shutil, sys
assert sys.argv[1:] == ["build_ext", "--inplace", "egg_info"], sys.argv
shutil.copytree({str(loaded.LIBRARY_PATH.parent)!r}, "crossd_ops/lib")
"""


def test_a_second_call_builds_on_a_copy_without_built_files(compiled_library: None, tmp_path: Path) -> None:
    """Results of the first call come along to a fresh machine, what it has built does not."""
    copy = tmp_path / "copy"
    for name in ("crossd_ops", "benchmarks"):
        unwanted = shutil.ignore_patterns("lib", "*.so", "__pycache__", "results", "out")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    (copy / "setup.py").write_text(SETUP)

    def call(part: str) -> dict[str, Any]:
        process = subprocess.run(
            ["sh", str(copy / "benchmarks" / "gpu.sh"), "--dry-run", "--parts", part],
            env={**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        assert (copy / "crossd_ops" / "lib" / "libcrossd_ops.so").exists()
        parts: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())["parts"]
        assert [attempt["command"] for attempt in parts["build"]["result"]["attempts"]] == [IN_PLACE]
        return parts

    assert list(call("self_test")) == ["build", "environment", "self_test"]
    shutil.rmtree(copy / "crossd_ops" / "lib")
    assert {name: outcome["status"] for name, outcome in call("bandwidth").items()} == {
        **{"build": "done", "environment": "done", "self_test": "done", "bandwidth": "done"}
    }
