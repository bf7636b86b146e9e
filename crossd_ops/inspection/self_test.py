"""The check that users run on their own devices: every operator against torch.fft in float64, forward and gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import functional
from ..operators import backends
from ..operators.checks import accumulate_dtype, named_device
from ..operators.head import predict_shift
from ..operators.rotation_head import rotation_head

# Largest error allowed, in units of the dtype's resolution, torch.finfo.eps. Sums are formed in float32 or float64, so
# in the half types little more than the rounding of stored values is left.
_RESOLUTIONS = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}


@dataclass(frozen=True)
class SelfTestCheck:
    """One result of one operator: `error` is the largest deviation, relative to the largest value of the reference."""

    device: str
    backend: str
    operator: str
    case: str
    dtype: str
    result: str
    error: float
    bound: float
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the operator ran and its error is within the bound; an error of NaN is not."""
        return self.failure is None and self.error <= self.bound


@dataclass(frozen=True)
class SelfTestReport:
    """What `self_test` found; str() is a table with the worst case of each operator and dtype."""

    checks: tuple[SelfTestCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        worst: dict[tuple[str, str, str], list[SelfTestCheck]] = {}
        for check in self.checks:
            worst.setdefault((check.device, check.operator, check.dtype), []).append(check)
        lines = [f"{'device':8} {'backend':10} {'operator':22} {'dtype':9} {'worst error':>11} {'bound':>8}"]
        for (device, operator, dtype), checks in worst.items():
            failed = [check for check in checks if not check.passed]
            shown = max(failed or checks, key=lambda check: check.error)
            verdict = f"FAILED: {shown.case}, {shown.result}" if failed else "passed"
            about = f"{device:8} {shown.backend:10} {operator:22} {dtype:9}"
            lines.append(f"{about} {shown.error:11.1e} {shown.bound:8.1e}  {verdict}")
            lines += [f"    {check.case}: {check.failure}" for check in failed if check.failure]
        total, failures = len(self.checks), sum(not check.passed for check in self.checks)
        lines.append(f"FAILED: {failures} of {total} checks" if failures else f"passed: {total} checks")
        return "\n".join(lines)


class _Case(NamedTuple):
    operator: str
    name: str
    function: Callable[..., Tensor]
    shapes: dict[str, tuple[int, ...]]  # of the function's arguments, in order; an argument named shift is in elements
    dtypes: tuple[torch.dtype, ...] = tuple(_RESOLUTIONS)
    in_layers: bool = False  # torch's own do the work where no kernel does: each rounds half types anew


class _Head(nn.Module):
    """A layer's head, so that its parameters can be given as tensors."""

    def __init__(self, channels: int, **factory: Any) -> None:
        super().__init__()
        first, last = nn.Conv2d(channels, 16, 1, **factory), nn.Conv2d(16, 4, 1, **factory)
        self.layers = nn.Sequential(first, nn.BatchNorm2d(16, **factory), nn.ReLU(), last)
        # No argument of the test: the norm takes it away again, so that its gradient would be rounding alone.
        first.bias = nn.Parameter(torch.zeros(16, **factory), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return predict_shift(input, self.layers, "linear")


def _cases() -> list[_Case]:
    cases = []
    for size in ((3, 3, 3), (5, 5, 5), (7, 7, 7), (2, 4, 3)):
        shapes = {"weight": (9, 5, *size), "shift": (3, 3)}
        name = "x".join(map(str, size))
        cases.append(_Case("fourier_shift", name, functional.fourier_shift, shapes))
        for dim in range(3):
            cases.append(_Case("fourier_shift_slice", f"{name}, dim {dim}", _slice(dim), shapes))
    for rotation in ("linear", "exact"):
        for pixels in ((7, 5), (33, 20)):
            name = f"{rotation}, {pixels[0]}x{pixels[1]}"
            cases.append(_Case("rotation_head", name, _rotation_head(rotation), {"map": (3, 4, *pixels)}))
    parameters = _Head(6, device="meta").named_parameters()
    head = {name: tuple(value.shape) for name, value in parameters if value.requires_grad}
    shapes = {"input": (3, 6, 9, 8), **head}
    dtypes = torch.float32, torch.bfloat16, torch.float16  # in float64 the head is torch's own layers
    cases.append(_Case("predict_shift", "6 channels", _predict_shift(tuple(head)), shapes, dtypes, in_layers=True))
    for name, sizes in (("crossd_conv2d", (14, 13)), ("crossd_conv3d", (6, 5, 7))):
        weight, image = (8, 4, 3, 3, 3), (3, 4, *sizes)
        shapes = {"input": image, "weight": weight, "shift": (3, 3), "bias": (8,)}
        cases.append(_Case(name, "8x4x3x3x3, padding 1", _convolution(name), shapes))
        given = name.replace("crossd", "sample")
        kernels = (3, 8, 4, *weight[-len(sizes) :])
        shapes = {"input": image, "weight": kernels, "bias": (8,)}
        cases.append(_Case(given, "8x4, 3 along each axis, padding 1", _convolution(given), shapes))
    return cases


def _slice(dim: int) -> Callable[..., Tensor]:
    return lambda weight, shift: functional.fourier_shift_slice(weight, shift, dim=dim)


def _rotation_head(rotation: str) -> Callable[..., Tensor]:
    return lambda map: rotation_head(map, rotation)


def _predict_shift(names: tuple[str, ...]) -> Callable[..., Tensor]:
    def function(input: Tensor, *parameters: Tensor) -> Tensor:
        head = _Head(input.shape[1], device=input.device, dtype=input.dtype)
        result: Tensor = torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), (input,))
        return result

    return function


def _convolution(name: str) -> Callable[..., Tensor]:
    function: Callable[..., Tensor] = getattr(functional, name)
    return lambda *tensors: function(*tensors, padding=1)


def self_test(device: torch.device | str | None = None) -> SelfTestReport:
    """Compares every operator, as it runs on this machine, with the torch.fft reference in float64 on the CPU.

    Each dtype, the results and all gradients, with the backend that the device uses. An error is the largest deviation
    divided by the largest value of the reference; what passes is 64 times the dtype's resolution (torch.finfo.eps), in
    the half types 4 times. It takes seconds, changes no random state, and switches TF32 off while it runs.

    Args:
        device: such as "cuda:1"; default: the CPU and every GPU that torch sees.

    Returns:
        A report: `passed`, `checks` with the figures, and a table as its str().

    Raises:
        TypeError, ValueError: `device` is no device, or meta.
    """
    if device is not None:
        devices = [named_device(device)]
        if devices[0].type == "meta":
            raise ValueError("device: expected one that computes, got meta")
    else:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(gpus))]
    checks: list[SelfTestCheck] = []
    with _full_precision(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        for case in _cases():
            for dtype in case.dtypes:
                checks += _compare(case, dtype, devices)
    return SelfTestReport(tuple(sorted(checks, key=lambda check: devices.index(torch.device(check.device)))))


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 in the convolutions, whose error would hide that of the operators."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    try:
        torch.set_float32_matmul_precision("highest")
        # What is not named would be set to its default.
        kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
        with cudnn.flags(**kept, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _compare(case: _Case, dtype: torch.dtype, devices: list[torch.device]) -> list[SelfTestCheck]:
    """The checks of one case in one dtype on all devices."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for name, shape in case.shapes.items():
        kind = accumulate_dtype(dtype) if name == "shift" else dtype
        inputs.append(torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(kind))
    with backends.use_backend(backends.REFERENCE):
        exact = [tensor.double() for tensor in inputs]
        shape = case.function(*exact).shape
        direction = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)
        expected = _results(case, exact, direction.double())
    names = ["result", *(f"gradient of {name}" for name in case.shapes)]
    checks = []
    for device in devices:
        backend = backends.backend(device)
        if case.in_layers and backend == backends.REFERENCE and dtype is not torch.float32:
            continue
        about = (str(device), backend, case.operator, case.name, str(dtype).removeprefix("torch."))
        bound = _RESOLUTIONS[dtype] * torch.finfo(dtype).eps
        try:
            got = _results(case, [tensor.to(device) for tensor in inputs], direction.to(device))
        except Exception as error:  # whatever it is, the user wants to read it in the report
            checks.append(SelfTestCheck(*about, "result", float("nan"), bound, f"{type(error).__name__}: {error}"))
            continue
        for name, value, reference in zip(names, got, expected, strict=True):
            checks.append(SelfTestCheck(*about, name, _error(value, reference), bound))
    return checks


def _results(case: _Case, inputs: list[Tensor], direction: Tensor) -> list[Tensor]:
    """The result, and the gradients of all inputs along `direction`."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    result = case.function(*inputs)
    gradients = torch.autograd.grad(result, inputs, direction.to(result.dtype))
    return [result.detach(), *gradients]


def _error(got: Tensor, expected: Tensor) -> float:
    return float((got.cpu().double() - expected).abs().max() / expected.abs().max())
