"""torch.compile, torch.export and torch's own checks of the compiled operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import crossd_ops

pytestmark = pytest.mark.usefixtures("compiled_library")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float64, torch.float64)], ids=str)
@pytest.mark.parametrize("dim, index", [(0, None), (0, 1), (2, 0)])
def test_opcheck(dim: int, index: int | None, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    operators = torch.ops.crossd_ops
    weight = torch.randn(2, 3, 3, 4, 5, dtype=dtypes[0])
    shift = torch.randn(4, 3, dtype=dtypes[0])
    torch.library.opcheck(operators.fourier_shift.default, (weight, shift, dim, index, dtypes[1]))
    grad = torch.randn_like(operators.fourier_shift(weight, shift, dim, index, dtypes[1]))
    strided = weight.transpose(0, 1).contiguous().transpose(0, 1)
    for needs in ((True, True), (True, False), (False, True)):
        arguments = (grad, strided, shift, dim, index, *needs)
        torch.library.opcheck(operators.fourier_shift_backward.default, arguments)


@pytest.mark.parametrize("dim, index", [(1, 2), (0, None)])
def test_opcheck_of_the_convolution(dim: int, index: int | None) -> None:
    operators = torch.ops.crossd_ops
    axes = 3 if index is None else 2
    input, weight = torch.randn(3, 4, *(7,) * axes), torch.randn(6, 2, 3, 3, 3)
    place = [2] * axes + [1] * 2 * axes + [2] + ([] if index is None else [dim, index])
    shift = torch.randn(3, 3)
    torch.library.opcheck(operators.convolution.default, (input, weight, shift, torch.randn(6), place))
    grad = torch.randn_like(operators.convolution(input, weight, shift, None, place))
    for needs in ((True, True, True), (False, True, False)):
        arguments = (grad, input, weight, shift, place, *needs)
        torch.library.opcheck(operators.convolution_backward.default, arguments)


def value(weight: Tensor, shift: Tensor) -> Tensor:
    whole = crossd_ops.fourier_shift(weight, shift, dtype=torch.float64)
    return whole.sin().sum() + crossd_ops.fourier_shift_slice(weight, shift, dim=1).square().sum()


def arguments(samples: int, out_channels: int) -> tuple[Tensor, Tensor]:
    return torch.randn(out_channels, 3, 3, 3, 3, requires_grad=True), torch.randn(samples, 3, requires_grad=True)


def assert_same_gradients(compiled: Callable[..., Tensor], eager: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    got, expected = compiled(), eager()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_function(dynamic: bool) -> None:
    compiled = torch.compile(value, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for sizes in ((2, 4), (5, 6)):
        inputs = arguments(*sizes)
        assert_same_gradients(lambda i=inputs: compiled(*i), lambda i=inputs: value(*i), list(inputs))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), value(*inputs))


def test_dynamic_shapes_compile_once() -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(value, fullgraph=True, dynamic=True, backend=keep)
    for sizes in ((2, 4), (5, 6), (7, 3)):
        compiled(*arguments(*sizes))
    assert len(graphs) == 1


def test_compiled_code_follows_use_backend() -> None:
    calls = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        calls.append("fft" in graph.code)
        return graph.forward

    compiled = torch.compile(lambda w, s: crossd_ops.fourier_shift(w, s), fullgraph=True, backend=count)
    inputs = [tensor.detach() for tensor in arguments(2, 4)]
    compiled(*inputs)
    with crossd_ops.use_backend("reference"):
        compiled(*inputs)
    compiled(*inputs)
    assert calls == [False, True]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_compiled_module(dynamic: bool, training: bool) -> None:
    module = crossd_ops.CrossDConv2d(4, 6, 3, padding=1).train(training)
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (2, 3):
        input = torch.randn(samples, 4, 6, 6)
        parameters = list(module.parameters())
        assert_same_gradients(lambda x=input: compiled(x).square(), lambda x=input: module(x).square(), parameters)


def test_inductor() -> None:
    module = crossd_ops.CrossDConv2d(4, 6, 3, padding=1).eval()
    input = torch.randn(2, 4, 6, 6)
    compiled = torch.compile(module, fullgraph=True)
    parameters = list(module.parameters())
    assert_same_gradients(lambda: compiled(input).square(), lambda: module(input).square(), parameters)


class Slice(nn.Module):
    def forward(self, weight: Tensor, shift: Tensor) -> Tensor:
        return crossd_ops.fourier_shift_slice(weight, shift)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_export_of_the_function(dynamic: bool, strict: bool) -> None:
    samples = {0: torch.export.Dim("samples")} if dynamic else None
    weight, shift = (tensor.detach() for tensor in arguments(3, 4))
    shapes = {"weight": None, "shift": samples}
    program = torch.export.export(Slice(), (weight, shift), dynamic_shapes=shapes, strict=strict)
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.crossd_ops.fourier_shift.default in targets
    shift = torch.randn(7 if dynamic else 3, 3)
    torch.testing.assert_close(program.module()(weight, shift), Slice()(weight, shift))


@pytest.mark.parametrize("dynamic", [False, True])
def test_export_of_the_module(dynamic: bool) -> None:
    module = crossd_ops.CrossDConv2d(4, 6, 3, stride=2, padding=1).eval()
    shapes = {"input": {0: torch.export.Dim("samples")}} if dynamic else None
    program = torch.export.export(module, (torch.randn(3, 4, 6, 6),), dynamic_shapes=shapes)
    input = torch.randn(7 if dynamic else 3, 4, 6, 6)
    torch.testing.assert_close(program.module()(input), module(input))
    decomposed = program.run_decompositions().module()
    torch.testing.assert_close(decomposed(input), module(input))


def test_meta_tensors_have_shapes() -> None:
    weight, shift = torch.randn(4, 3, 3, 5, 3, device="meta"), torch.randn(2, 3, device="meta")
    assert crossd_ops.fourier_shift_slice(weight, shift, dim=1).shape == (2, 4, 3, 3, 3)
    assert crossd_ops.fourier_shift(weight, shift, dtype=torch.float16).dtype is torch.float16
