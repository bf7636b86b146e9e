"""A library that does not load and a GPU without kernels: cause and cure are named once, and the reference works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import crossd_ops
from crossd_ops.library import diagnosis, loaded
from crossd_ops.library.diagnosis import Gpu, gpu_problem, kernels_for, load_problem
from crossd_ops.library.facts import build_facts
from crossd_ops.operators import backends

PACKAGE = Path(crossd_ops.__file__).parent
FACTS = {"torch_target": "2.11", "cuda_version": "13.0", "cuda_architectures": ["compute_90", "sm_80", "sm_90"]}

# --- the library does not load ---

Break = Callable[[Path], None]


def missing(library: Path) -> None:
    library.unlink(missing_ok=True)


def cut_short(library: Path) -> None:
    shutil.copy(loaded.LIBRARY_PATH, library)
    with library.open("r+b") as file:
        file.truncate(library.stat().st_size // 2)


def overwritten(library: Path) -> None:
    library.write_bytes(b"not a library" * 100)


def compiled(library: Path, source: str, *options: str) -> None:
    command = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-x", "none", "-o", str(library), *options]
    subprocess.run(command, input=source, text=True, check=True)


def undefined_symbol(library: Path) -> None:
    compiled(library, "extern int torch_of_tomorrow(); static int value = torch_of_tomorrow();")


def missing_dependency(library: Path) -> None:
    other = library.with_name("libof_tomorrow.so")
    compiled(other, "int value;")
    compiled(library, "", "-Wl,--no-as-needed", "-L", str(library.parent), "-lof_tomorrow")
    other.unlink()


def registered_twice(library: Path) -> None:
    shutil.copy(loaded.LIBRARY_PATH, library)
    library.with_name("first.so").symlink_to(loaded.LIBRARY_PATH)


def of_other_sources(library: Path) -> None:
    compiled(library, "int value;")


BROKEN = [
    (missing, "does not exist", "reinstall crossd_ops"),
    (cut_short, r"it was cut short, \d+ bytes of \d+", "reinstall crossd_ops"),
    (overwritten, r"it is no 64-bit ELF library \(1300 bytes\)", "reinstall crossd_ops"),
    (undefined_symbol, r"torch \S+ has no symbol \S*torch_of_tomorrow", "from source in this environment"),
    (missing_dependency, "it needs libof_tomorrow.so, which was not found", "install what is missing"),
    (of_other_sources, "has no operator crossd_ops::fourier_shift: it belongs to another version", "make build"),
    (registered_twice, "another copy of it is loaded already", "link the library that"),
]

PROGRAM = """
import re, sys, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
first = Path(sys.argv[1], "crossd_ops", "lib", "first.so")
if first.exists():
    torch.ops.load_library(str(first))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import crossd_ops
    from crossd_ops.__main__ import main
    assert crossd_ops.__file__.startswith(sys.argv[1])
    for _ in range(2):
        assert crossd_ops.backend("cuda") == "reference"
        assert crossd_ops.backend("cpu") == "reference"
assert [warning.category for warning in seen] == [RuntimeWarning], seen
for text in (crossd_ops.build_info()["library_error"], str(seen[0].message)):
    assert re.search(sys.argv[2], text), text
assert re.search(sys.argv[3], str(seen[0].message)), seen[0].message
layer = crossd_ops.CrossDConv2d(3, 4, 3)
layer(torch.randn(2, 3, 6, 6)).sum().backward()
assert layer.weights_3d.grad.abs().max() > 0
assert crossd_ops.self_test("cpu").passed
assert main([]) == 1
"""


@pytest.mark.parametrize(("break_it", "cause", "cure"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_cause_and_cure_are_named_and_the_reference_works(
    tmp_path: Path, compiled_library: None, break_it: Break, cause: str, cure: str
) -> None:
    shutil.copytree(PACKAGE, tmp_path / "crossd_ops", ignore=shutil.ignore_patterns("lib", "*.so", "__pycache__"))
    (tmp_path / "crossd_ops" / "lib").mkdir()
    break_it(tmp_path / "crossd_ops" / "lib" / loaded.LIBRARY_PATH.name)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), cause, cure]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Backends\n  cpu                      reference: the compiled operators" in result.stdout
    assert cure in result.stdout and "Traceback" not in result.stderr


def test_a_library_for_another_machine(compiled_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnosis.file_problem(loaded.LIBRARY_PATH) is None
    machines = {"x86_64": "aarch64", "aarch64": "x86_64"}
    here = diagnosis.platform.machine()
    monkeypatch.setattr(diagnosis.platform, "machine", lambda: machines[here])
    problem = diagnosis.file_problem(loaded.LIBRARY_PATH)
    assert problem is not None and f"it was built for {here}, this machine is {machines[here]}" in problem.cause


@pytest.mark.parametrize(
    ("message", "torch_version", "cause", "cure"),
    [
        ("undefined symbol: aoti", "2.10.1+cu128", "for torch 2.11 or newer, and torch 2.10.1", "torch>=2.11"),
        ("/lib/libc.so.6: version `GLIBC_2.34' not found (required by x)", "2.11.0", "has no GLIBC_2.34", "source"),
        ("x.so: undefined symbol: aoti", "2.11.0", "torch 2.11.0 has no symbol aoti", "from source"),
        ("libc10.so: cannot open shared object file", "2.11.0", "it needs libc10.so", "reinstall torch"),
        ("something new", "2.11.0", "does not load: something new", "reinstall crossd_ops"),
    ],
)
def test_messages_of_the_linker(message: str, torch_version: str, cause: str, cure: str) -> None:
    problem = load_problem(Path("lib.so"), message, torch_version, FACTS)
    assert problem.cause.startswith("lib.so does not load: ") and cause in problem.cause and cure in problem.cure


# --- facts of the build ---


@pytest.mark.parametrize(("spoil", "cause", "cure"), BROKEN[:3], ids=["missing", "cut short", "overwritten"])
def test_a_spoilt_file_is_known_before_it_is_loaded(
    spoil: Break, cause: str, cure: str, compiled_library: None, tmp_path: Path
) -> None:
    library = tmp_path / "libcrossd_ops.so"
    spoil(library)
    problem = diagnosis.file_problem(library)
    assert problem is not None and cure in problem.cure and re.search(cause, problem.cause)


def test_build_facts(compiled_library: None) -> None:
    facts = build_facts()
    assert facts is not None and facts["version"] == crossd_ops.__version__ and facts["torch_target"] == "2.11"
    assert (facts["cuda_version"] is not None) == ("cuda" in crossd_ops.build_info()["devices"])
    assert bool(facts["cuda_architectures"]) == (facts["cuda_version"] is not None)


def test_build_facts_without_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossd_ops.library.facts._WRITTEN", tmp_path / "build.json")
    (tmp_path / "build.json").write_text("{")
    assert build_facts() == pytest.importorskip("crossd_ops._C").build_info()
    monkeypatch.setitem(sys.modules, "crossd_ops._C", None)
    assert build_facts() is None


# --- GPUs ---


@pytest.mark.parametrize(
    ("capability", "driver", "kernels"),
    [
        ((8, 0), "13.0", "sm_80"),
        ((8, 9), "13.0", "sm_80"),
        ((9, 0), "13.0", "sm_90"),
        ((12, 0), "13.0", "compute_90"),
        ((12, 0), "13.1", "compute_90"),
        ((12, 0), None, "compute_90"),
        ((7, 5), "13.0", None),
    ],
)
def test_kernels_for_a_gpu(capability: tuple[int, int], driver: str | None, kernels: str | None) -> None:
    gpu = Gpu(0, "GPU", capability)
    assert kernels_for(gpu, driver, FACTS) == kernels
    assert (gpu_problem([gpu], driver, FACTS) is None) == (kernels is not None)


def test_kernels_of_one_architecture_and_of_a_family() -> None:
    facts = {"cuda_version": "12.8", "cuda_architectures": ["sm_90a", "compute_100f"]}
    capabilities = [(9, 0), (10, 0), (10, 3), (12, 0)]
    found = [kernels_for(Gpu(0, "GPU", capability), "13.0", facts) for capability in capabilities]
    assert found == ["sm_90a", "compute_100f", "compute_100f", None]
    assert kernels_for(Gpu(0, "GPU", (10, 0)), "12.6", facts) is None  # does not know the PTX of 12.8


def test_a_name_that_is_no_architecture_is_passed_over() -> None:
    facts = {**FACTS, "cuda_architectures": ["gfx90a", "sm_90"]}
    assert kernels_for(Gpu(0, "GPU", (9, 0)), None, facts) == "sm_90"


def test_an_old_driver() -> None:
    problem = gpu_problem([Gpu(0, "GPU", (9, 0))], "12.8", FACTS)
    assert problem is not None
    assert "built with CUDA 13.0, and the NVIDIA driver supports CUDA 12.8 at most" in problem.cause
    assert "update the driver" in problem.cure and "CUDA 12 in CUDA_HOME" in problem.cure


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert gpu_problem([Gpu(0, "GPU", (7, 0))], "12.8", None) is None
    assert gpu_problem([Gpu(0, "GPU", (7, 0))], "12.8", {**FACTS, "cuda_version": None}) is None
    assert gpu_problem([], None, FACTS) is None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A machine with GPUs of these compute capabilities, which torch has just started to use."""

    def start(*capabilities: tuple[int, int]) -> None:
        (tmp_path / "build.json").write_text(json.dumps(FACTS))
        monkeypatch.setattr("crossd_ops.library.facts._WRITTEN", tmp_path / "build.json")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Model {number}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capabilities[number])
        monkeypatch.setattr(loaded, "driver_cuda", lambda: "13.0")
        monkeypatch.setattr(loaded, "_load_problem", None)
        monkeypatch.setattr(loaded, "devices", frozenset({"cpu", "cuda", "meta"}))
        monkeypatch.setattr(loaded, "_gpu_problem", None)
        monkeypatch.setattr(loaded, "runs_wherever_built", True)
        monkeypatch.setattr(backends, "_warned_devices", set())
        loaded._examine_gpus()

    return start


def test_a_gpu_without_kernels(machine: Callable[..., None]) -> None:
    machine((9, 0), (7, 5))
    cause = r"GPU 1 \(Model 1\) has compute capability 7.5, and the kernels were built for compute_90, sm_80, sm_90"
    cure = 'TORCH_CUDA_ARCH_LIST="7.5", or hide that GPU with CUDA_VISIBLE_DEVICES'
    with pytest.warns(RuntimeWarning, match=f"missing for cuda: {cause}; to have them, .*{cure}.*torch.fft reference"):
        assert crossd_ops.backend("cuda") == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert crossd_ops.backend("cuda") == "reference" and crossd_ops.backend("cpu") == "compiled"
    with crossd_ops.use_backend("compiled"), pytest.raises(RuntimeError, match=cause):
        crossd_ops.backend("cuda")


def test_gpus_with_kernels(machine: Callable[..., None]) -> None:
    machine((9, 0), (12, 0))
    assert crossd_ops.backend("cuda") == crossd_ops.backend("cuda:1") == "compiled"


def test_gpus_are_examined_when_torch_starts_cuda() -> None:
    if "cuda" not in crossd_ops.build_info()["devices"] or torch.cuda.is_initialized():
        pytest.skip("no CUDA kernels, or CUDA has started")
    assert loaded._examine_gpus in [call for call, _ in torch.cuda._queued_calls]


def test_a_driver_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        status = 0

        def cuDriverGetVersion(self, version):
            version._obj.value = 12080
            return self.status

    driver = Driver()
    monkeypatch.setattr(loaded.ctypes, "CDLL", lambda name: driver)
    assert loaded.driver_cuda() == "12.8"
    driver.status = 3
    assert loaded.driver_cuda() is None


def test_rocm_devices_are_no_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "cuda" not in loaded._devices()
    assert loaded.missing_kernels("cuda") == "crossd_ops has no compiled kernels for ROCm devices"
