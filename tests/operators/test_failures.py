"""What fails by no fault of the arguments (memory, hooks of the user's, the environment) is told, and tried once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crossd_ops import crossd_conv2d, crossd_conv3d, fourier_shift, fourier_shift_slice
from crossd_ops.operators import backends, convolution

WEIGHT, SHIFT, IMAGE = torch.randn(4, 3, 3, 3, 3), torch.randn(2, 3), torch.randn(2, 3, 8, 8)
CALLS: dict[str, Callable[..., Tensor]] = {
    "crossd_conv2d": lambda weight: crossd_conv2d(IMAGE, weight, SHIFT),
    "crossd_conv2d, another slice": lambda weight: crossd_conv2d(IMAGE, weight, SHIFT, dim=-1, index=-1),
    "crossd_conv2d, same": lambda weight: crossd_conv2d(IMAGE, weight, SHIFT, padding="same"),
    "crossd_conv3d": lambda weight: crossd_conv3d(torch.randn(2, 3, 8, 8, 8), weight, SHIFT, stride=(1, 2, 1)),
    "fourier_shift": lambda weight: fourier_shift(weight, SHIFT),
    "fourier_shift_slice": lambda weight: fourier_shift_slice(weight, SHIFT.double(), index=-1),
}


@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, IndexError, AttributeError, MemoryError])
@pytest.mark.parametrize("name", CALLS)
def test_exceptions_of_the_users_hooks_arrive(compiled_library: None, name: str, kind: type[Exception]) -> None:
    weight, calls = WEIGHT.clone().requires_grad_(), []

    def pack(tensor: Tensor) -> Tensor:
        calls.append(tensor)
        raise kind("the user's hook has failed")

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with pytest.raises(kind, match="the user's hook has failed") as caught, hooks:
        CALLS[name](weight)
    assert len(calls) == 1 and caught.value.__context__ is None


@pytest.mark.parametrize("name", ["crossd_conv2d", "crossd_conv3d"])
def test_an_operator_that_fails_is_not_called_again(
    compiled_library: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls = []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        raise RuntimeError("a fault of the library")

    monkeypatch.setattr(convolution, "eager_forward", fail)
    with pytest.raises(RuntimeError, match="a fault of the library"):
        CALLS[name](WEIGHT)
    assert len(calls) == 1


# In a process of its own, which may not have more memory than torch itself takes and a little.
MEMORY = """
import resource, torch
from crossd_ops import crossd_conv2d, fourier_shift
weight, shift = torch.randn(256, 256, 3, 3, 3, requires_grad=True), torch.zeros(400, 3)
image = torch.randn(1, 256, 8, 8).expand(400, -1, -1, -1)
small = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 3, 3, 3), torch.zeros(1, 3)
grad = torch.zeros(()).expand(400, 256, 256, 3, 3, 3)
shifted = fourier_shift(weight[:1, :1], shift)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 100_000_000, resource.RLIM_INFINITY))
calls = {
    "fourier_shift": lambda: fourier_shift(weight, shift),
    "crossd_conv2d": lambda: crossd_conv2d(image, weight, shift),
    "small image between borders": lambda: crossd_conv2d(*small, padding=20000),
}
for name, call in calls.items():
    try:
        call()
    except RuntimeError as error:
        print(name, "->", type(error).__name__, error)
    crossd_conv2d(*small)  # all is well again
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux' /proc")
def test_full_memory_is_named(compiled_library: None) -> None:
    process = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and len(lines) == 3, process.stderr
    for line in lines:
        assert "RuntimeError" in line and "memory" in line and "API call failed" not in line


@pytest.mark.parametrize(
    "text, counted, expected",
    [
        ("CUDA out of memory. Tried to allocate 2 bytes", 0, True),
        ("torch failed inside of crossd_ops; ...", 1, True),
        ("torch failed inside of crossd_ops; ...", 0, False),
        ("another fault", 1, False),
    ],
)
def test_full_memory_of_a_gpu_has_torchs_type(
    monkeypatch: pytest.MonkeyPatch, text: str, counted: int, expected: bool
) -> None:
    """The types that a GPU would raise, of an allocator that counts as CUDA's does."""
    monkeypatch.setattr(backends, "_times_out_of_memory", 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_ooms": counted if device else 0})

    def fail() -> None:
        raise RuntimeError(text)

    with pytest.raises(RuntimeError) as caught:
        backends.run(fail)
    assert isinstance(caught.value, torch.OutOfMemoryError) == expected and str(caught.value) == text
    with pytest.raises(RuntimeError) as caught:  # what was counted before says nothing about this one
        backends.run(fail)
    assert isinstance(caught.value, torch.OutOfMemoryError) == text.startswith("CUDA")


@pytest.mark.parametrize("value", ["AVX512", "avx-512", "sse", "baselin", " "])
def test_an_instruction_set_that_is_none_is_refused(compiled_library: None, value: str) -> None:
    text = f"CROSSD_CPU_CAPABILITY: expected baseline, avx2 or avx512 in the environment, got {value}"
    for code in (
        "import torch, crossd_ops; crossd_ops.fourier_shift(torch.zeros(1, 1, 3, 3, 3), torch.zeros(1, 3))",
        "from crossd_ops.library import loaded; loaded.cpu_capability()",
    ):
        environment = {**os.environ, "CROSSD_CPU_CAPABILITY": value}
        process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert process.stderr.splitlines()[-1] == f"ValueError: {text}"


def test_an_empty_value_is_none(compiled_library: None) -> None:
    code = "from crossd_ops.library import loaded; print(loaded.cpu_capability())"
    environment = {name: value for name, value in os.environ.items() if name != "CROSSD_CPU_CAPABILITY"}
    found = [
        subprocess.run([sys.executable, "-c", code], env=environment | more, capture_output=True, text=True).stdout
        for more in ({}, {"CROSSD_CPU_CAPABILITY": ""})
    ]
    assert found[0] == found[1] != ""


# As notebooks that reload do it, and tests that import anew.
RELOAD = """
import importlib, sys, torch, crossd_ops
for step in ("reload", "import again", "reload"):
    if step == "reload":
        importlib.reload(crossd_ops)
    else:
        for name in [name for name in sys.modules if name.partition(".")[0] == "crossd_ops"]:
            del sys.modules[name]
        import crossd_ops
    for name in [name for name in sys.modules if name.startswith("crossd_ops.")]:
        importlib.reload(sys.modules[name])
    layer, image = crossd_ops.CrossDConv2d(1, 4, 3), torch.randn(2, 1, 8, 8)
    layer(image).sum().backward()
    with torch.device("meta"):
        assert crossd_ops.CrossDConv2d(1, 4, 3)(torch.randn(2, 1, 8, 8)).shape == (2, 4, 6, 6)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        crossd_ops.crossd_conv2d(image, layer.weights_3d, torch.zeros(2, 3))
    assert counter.get_total_flops() == 2 * 2 * 4 * 36 * 9, counter.get_total_flops()
    print(crossd_ops.backend("cpu"))
"""


def test_the_package_may_be_imported_again_in_a_process(compiled_library: None) -> None:
    process = subprocess.run([sys.executable, "-W", "error", "-c", RELOAD], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["compiled"] * 3
