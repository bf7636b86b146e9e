"""Tests with CMake skip where torch itself is not found, and only there."""

from __future__ import annotations

from pathlib import Path

import cmake_torch
import pytest
import test_cpp
import torch

from crossd_ops.library import cmake

# What a CUDA build of torch says where the toolkit is not whole; a target that is missing is found out a step later.
NO_TOOLKIT = 'message(FATAL_ERROR "uses CUDA but I cannot find the CUDA libraries")'
NO_TARGET = 'set(TORCH_LIBRARIES "CUDA::cublas")'


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmake_torch, "why_not", cmake_torch.why_not.__wrapped__)
    if cmake_torch.why_not() is not None:
        pytest.skip("no cmake, or no torch that it finds")


@pytest.mark.parametrize(
    ("config", "said"), [(NO_TOOLKIT, "cannot find the CUDA libraries"), (NO_TARGET, "CUDA::cublas"), (None, "Torch")]
)
def test_a_torch_that_is_not_found_is_a_reason_to_skip(
    config: str | None, said: str, uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if config:
        (tmp_path / "TorchConfig.cmake").write_text(config)
    monkeypatch.setattr(torch.utils, "cmake_prefix_path", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=rf"^find_package\(Torch\) alone fails: CMake Error.*{said}"):
        test_cpp.configure(tmp_path / "build")


def test_a_crossd_ops_that_is_not_found_is_a_failure(
    uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cmake, "cmake_prefix_path", str(tmp_path))
    with pytest.raises(AssertionError, match="crossd_ops"):
        test_cpp.configure(tmp_path / "build")


def test_without_cmake_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmake_torch.shutil, "which", lambda name: None)
    assert cmake_torch.why_not.__wrapped__() == "no cmake"
