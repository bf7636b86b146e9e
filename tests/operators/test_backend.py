"""Choosing a backend, and what is said where the compiled one is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

import crossd_ops
from crossd_ops.library import loaded
from crossd_ops.operators import backends

PACKAGE = Path(crossd_ops.__file__).parent


def test_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "devices", frozenset({"cpu"}))
    assert crossd_ops.backend() == "compiled"
    assert crossd_ops.backend("cpu") == crossd_ops.backend(torch.device("cpu")) == "compiled"
    assert crossd_ops.backend("mps") == "reference"


def test_use_backend_nests_and_restores(compiled_library: None) -> None:
    assert crossd_ops.backend() == "compiled"
    with crossd_ops.use_backend("reference"):
        assert crossd_ops.backend() == "reference"
        with crossd_ops.use_backend("compiled"):
            assert crossd_ops.backend() == "compiled"
        with pytest.raises(KeyError), crossd_ops.use_backend("compiled"):
            raise KeyError
        assert crossd_ops.backend() == "reference"
    assert crossd_ops.backend() == "compiled"


def test_use_backend_holds_in_every_thread() -> None:
    seen = []
    with crossd_ops.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(crossd_ops.backend()))
        thread.start()
        thread.join()
    assert seen == ["reference"]


def test_unknown_name() -> None:
    message = r"^name: expected one of .*reference, got 'fast'$"
    with pytest.raises(ValueError, match=message), crossd_ops.use_backend("fast"):
        pass


def test_registered_backend_runs() -> None:
    class Ones:
        def fourier_shift(self, weight, shift, dim, index, dtype):
            return weight.new_ones((shift.shape[0], *weight.shape), dtype=dtype)

        fourier_shift_backward = None

    backends.register("ones", Ones())
    try:
        with crossd_ops.use_backend("ones"):
            got = crossd_ops.fourier_shift(torch.zeros(2, 3, 1, 2, 3), torch.zeros(4, 3))
        assert torch.equal(got, torch.ones(4, 2, 3, 1, 2, 3))
    finally:
        del backends._registry["ones"]
    with pytest.raises(ValueError, match="name: expected another name than 'reference'"):
        backends.register("reference", Ones())


def test_one_warning_for_a_cuda_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "devices", frozenset({"cpu"}))
    monkeypatch.setattr(backends, "_warned_devices", set())
    with pytest.warns(RuntimeWarning, match="missing for cuda: .*without CUDA kernels.*nvcc.*CROSSD_CUDA=1"):
        assert crossd_ops.backend("cuda") == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert crossd_ops.backend("cuda") == "reference"


def test_forcing_the_compiled_backend_where_it_has_no_kernels(compiled_library: None) -> None:
    with crossd_ops.use_backend("compiled"), pytest.raises(RuntimeError, match="no compiled kernels for mps devices"):
        crossd_ops.backend("mps")


def test_exported_names() -> None:
    for name in crossd_ops.__all__:
        assert hasattr(crossd_ops, name)
    assert crossd_ops.__version__


def test_build_info() -> None:
    info = crossd_ops.build_info()
    assert info["torch"] == torch.__version__
    assert (info["library"] is None) == (info["library_error"] is not None)
    assert info["backends"][-1] == "reference"
    assert ("cpu" in info["devices"]) == (info["library"] is not None)


@pytest.mark.parametrize("library", ["missing", "broken"])
def test_package_works_without_the_library(tmp_path: Path, library: str) -> None:
    package = tmp_path / "crossd_ops"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("lib", "*.so", "__pycache__"))
    if library == "broken":
        (package / "lib").mkdir()
        (package / "lib" / "libcrossd_ops.so").write_text("not a library")
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import torch, crossd_ops
loaded = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "crossd_ops"]
assert "crossd_ops.conversion" in sys.modules
assert all(file.startswith({str(tmp_path)!r}) for file in loaded), loaded
assert crossd_ops.backend() == "reference"
info = crossd_ops.build_info()
assert info["library"] is None and {"exist" if library == "missing" else "load"!r} in info["library_error"], info
weight = torch.randn(2, 3, 3, 3, 3, requires_grad=True)
crossd_ops.fourier_shift_slice(weight, torch.randn(4, 3)).sum().backward()
assert weight.grad.shape == weight.shape
crossd_ops.CrossDConv2d(3, 4, 3)(torch.randn(2, 3, 6, 6))
try:
    with crossd_ops.use_backend("compiled"):
        pass
except RuntimeError as error:
    assert "the compiled operators of crossd_ops are missing for cpu" in str(error) and "reinstall" in str(error)
else:
    raise AssertionError("use_backend gave what is not there")
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
