"""The rotation head's operators: their contract with torch, threads, and the kernels alone."""

from __future__ import annotations

import math
import os
import subprocess

import pytest
import torch
from emulator.build import EMULATOR, SANITIZER_ENVIRONMENT, assert_check_passes, compile_program, why_not
from emulator.cpu_build import cpu_program
from torch import Tensor

from crossd_ops.operators import backends
from crossd_ops.operators.rotation_head import composite, rotation_head

CHECK = EMULATOR / "rotation_head_check.cpp"
CAPABILITIES = ["baseline", "avx2", "avx512"]


@pytest.fixture(scope="module")
def operators() -> object:
    if backends.COMPILED not in backends.names():
        pytest.skip("the compiled operators are not there")
    return torch.ops.crossd_ops


def maps() -> list[Tensor]:
    map = torch.randn(3, 4, 5, 7)
    return [map, map.double(), map.bfloat16(), map.contiguous(memory_format=torch.channels_last), map[:, :, 1:, ::2]]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("index", range(5))
def test_contract_with_torch(operators: object, index: int, exact: bool) -> None:
    map = maps()[index]
    shift, statistics = torch.ops.crossd_ops.rotation_head(map, exact)
    torch.library.opcheck(torch.ops.crossd_ops.rotation_head, (map, exact))
    torch.library.opcheck(torch.ops.crossd_ops.rotation_head_backward, (shift, map, statistics, exact))
    pixels = map.flatten(2).to(statistics.dtype)
    maximum = pixels.amax(-1, keepdim=True)
    sums, v = (pixels - maximum).exp().sum(-1), (pixels.softmax(-1) * pixels).sum(-1)
    torch.testing.assert_close(statistics, torch.stack([maximum[..., 0], sums, v], -1))


def test_arguments_of_the_operators_are_checked(operators: object) -> None:
    map, shift, statistics = torch.ones(2, 4, 3, 3), torch.ones(2, 3), torch.ones(2, 4, 3)
    head, backward = torch.ops.crossd_ops.rotation_head, torch.ops.crossd_ops.rotation_head_backward
    for call, text in (
        (lambda: head(map[:, :3], False), r"map: expected \(B, 4, H, W\), got \(2, 3, 3, 3\)"),
        (lambda: head(map[..., :0], False), r"map: expected at least one pixel, got \(2, 4, 3, 0\)"),
        (lambda: head(map.long(), False), "map: expected a dtype of float64"),
        (lambda: backward(shift[:1], map, statistics, False), r"grad_shift: expected \(2, 3\), got \(1, 3\)"),
        (lambda: backward(shift.double(), map, statistics, False), "grad_shift: expected float32 for this map"),
        (lambda: backward(shift, map, statistics[:, :2], False), r"statistics: expected \(2, 4, 3\), got \(2, 2, 3\)"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(operators: object, dynamic: bool) -> None:
    torch._dynamo.reset()

    def step(map: Tensor) -> Tensor:
        return rotation_head(map.sin(), "exact") * 2

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (2, 3):
        map = torch.randn(samples, 4, 6, 5, requires_grad=True)
        got, expected = compiled(map), step(map)
        torch.testing.assert_close(got, expected)
        grad_shift = torch.randn(samples, 3)
        torch.testing.assert_close(
            torch.autograd.grad(got, map, grad_shift), torch.autograd.grad(expected, map, grad_shift)
        )


def test_export_keeps_the_operator(operators: object) -> None:
    class Head(torch.nn.Module):
        def forward(self, map: Tensor) -> Tensor:
            return rotation_head(map)

    map = torch.randn(2, 4, 6, 5)
    program = torch.export.export(Head(), (map,))
    assert "crossd_ops.rotation_head" in str(program.graph)
    torch.testing.assert_close(program.module()(map), rotation_head(map))


@pytest.mark.parametrize("shape", [(1, 4, 112, 112), (3, 4, 112, 112), (40, 4, 56, 56), (600, 4, 7, 7)], ids=str)
def test_threads_change_nothing(operators: object, shape: tuple[int, ...]) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            map = torch.randn(shape, requires_grad=True)
            shift = rotation_head(map)
            results.append((shift.detach(), torch.autograd.grad(shift, map, torch.randn(shape[0], 3))[0]))
    finally:
        torch.set_num_threads(before)
    for shift, grad_map in results[1:]:
        assert torch.equal(shift, results[0][0]) and torch.equal(grad_map, results[0][1])


def test_exponential_is_accurate(operators: object) -> None:
    """By the gradient of the angle's channel: scale exp(m) (1 + m), with statistics that make the rest known."""
    exponents = -torch.linspace(0, 86, 100_003).reshape(1, 1, 1, -1)
    map = exponents.expand(1, 4, 1, -1).contiguous()
    statistics = torch.tensor([[[0.0, 1.0, v] for v in (1.0, 0.0, 0.0, 0.0)]])
    grad_shift = torch.tensor([[0.0, -1.0, 1.0]])
    got = torch.ops.crossd_ops.rotation_head_backward(grad_shift, map, statistics, False)[0, 3, 0].double()
    m = exponents.flatten().double()
    expected = -2 / (1 + 1e-8) * math.pi / 4 * m.exp() * (1 + m)
    # Two units of exp, half a unit each of scale, 1 + m and two products.
    assert ((got - expected).abs() <= 4 * 2**-23 * expected.abs()).all()
    map[..., ::2] = -200.0
    got = torch.ops.crossd_ops.rotation_head_backward(grad_shift, map, statistics, False)[0, 3, 0]
    assert (got[::2] == 0).all()


@pytest.mark.parametrize("variant", ["address", "thread"])
def test_cpu_kernels_under_sanitizers(variant: str) -> None:
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    program = cpu_program(CHECK, variant)
    # Who writes where does not depend on the instruction set, and ThreadSanitizer takes its time.
    for capability in CAPABILITIES if variant == "address" else CAPABILITIES[-1:]:
        environment = {**os.environ, **SANITIZER_ENVIRONMENT, "CROSSD_CPU_CAPABILITY": capability}
        process = subprocess.run([str(program)], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        assert process.stdout.splitlines()[-1].startswith("0 of ")


@pytest.mark.parametrize(
    ("variant", "options"), [("plain", []), ("address", ["--one-order"]), ("thread", ["--one-order", "brief"])]
)
def test_cuda_kernels_in_the_emulator(variant: str, options: list[str]) -> None:
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    assert_check_passes(compile_program(CHECK, variant), *options)


def test_composite_is_the_published_head() -> None:
    """Against the formulas of the published layer, written out with the rotation matrix."""
    map = torch.randn(5, 4, 6, 7, dtype=torch.float64)
    pixels = map.flatten(2)
    v = (torch.softmax(pixels, -1) * pixels).sum(-1)
    axis, angle = v[:, :3] / (v[:, :3].norm(dim=1, keepdim=True) + 1e-8), torch.tanh(v[:, 3]) * math.pi / 4
    generator = torch.zeros(5, 3, 3, dtype=torch.float64)
    generator[:, 0, 1], generator[:, 0, 2], generator[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
    generator = (generator - generator.mT) * angle[:, None, None]
    linear = (torch.eye(3, dtype=torch.float64) + generator).sum(1)
    torch.testing.assert_close(composite(map, "linear"), linear)
    unit = torch.linalg.matrix_exp(generator).sum(1)
    torch.testing.assert_close(composite(map, "exact"), unit, rtol=0, atol=1e-7)
