"""The convolution with given kernels by transforms, tracers and exporters; its operators called by themselves."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
import torch
from test_sample_convolution import CHANNELS_LAST, convolve, expected, tensors
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim

from crossd_ops import sample_conv2d

SHAPES = pytest.mark.parametrize("pixels", [(6, 7), (6, 7, 5)], ids=["image", "volume"])


def loss(*arguments: Tensor) -> Tensor:
    return convolve(*arguments, padding=1).sin().sum()


# --- torch.func ---


def test_transforms_agree_with_autograd() -> None:
    arguments = tensors()
    wanted = torch.autograd.grad(loss(*arguments), arguments)
    torch.testing.assert_close(torch.func.grad(loss, argnums=(0, 1, 2))(*arguments), wanted)
    tangents = tuple(torch.randn_like(tensor) for tensor in arguments)
    _, tangent = torch.func.jvp(loss, tuple(a.detach() for a in arguments), tangents)
    torch.testing.assert_close(tangent, sum((g * t).sum() for g, t in zip(wanted, tangents, strict=True)))


def test_forward_mode_twice() -> None:
    input, weight, _ = (tensor.detach() for tensor in tensors())

    def along(function: Any) -> Any:
        once = lambda x: torch.func.jvp(lambda y: function(y, weight).sin().sum(), (x,), (input,))[1]  # noqa: E731
        return torch.func.jvp(once, (input,), (input,))[1]

    torch.testing.assert_close(along(convolve), along(expected))


@SHAPES
@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 1, None), (1, 0, 0)], ids=str)
def test_vmap(pixels: tuple[int, ...], in_dims: tuple[int | None, ...]) -> None:
    given = [tensor.detach() for tensor in tensors(4, pixels)]
    batched = [
        tensor if dim is None else torch.stack([tensor, tensor + 1], dim)
        for tensor, dim in zip(given, in_dims, strict=True)
    ]
    rows = [
        [tensor if dim is None else tensor.select(dim, i) for tensor, dim in zip(batched, in_dims, strict=True)]
        for i in range(2)
    ]
    got = torch.func.vmap(lambda *a: convolve(*a, padding=1), in_dims=in_dims)(*batched)
    torch.testing.assert_close(got, torch.stack([expected(*row, padding=1) for row in rows]))


# --- tracers ---


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("dynamic", [False, True])
@SHAPES
def test_compile(pixels: tuple[int, ...], dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (3, 5):
        arguments = tensors(4, pixels, samples=samples)
        got, wanted = (torch.autograd.grad(f(*arguments), arguments) for f in (compiled, loss))
        torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*arguments), loss(*arguments))


class Layer(nn.Module):
    """Kernels that a network predicts for each sample."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.kernel = (3, 2, 3)[:axes]
        self.predicted = nn.Linear(4, 6 * 4 * torch.Size(self.kernel).numel())
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, input: Tensor) -> Tensor:
        weight = self.predicted(input.flatten(2).mean(2)).reshape(-1, 6, 4, *self.kernel)
        return convolve(input, weight, self.bias, padding="same")


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("strict", [False, True])
@SHAPES
def test_export_keeps_the_operator(pixels: tuple[int, ...], strict: bool) -> None:
    layer = Layer(len(pixels)).requires_grad_(False)
    shapes = {0: Dim("samples"), 2: Dim("height", min=4)}
    program = torch.export.export(layer, (torch.randn(3, 4, *pixels),), dynamic_shapes=(shapes,), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    program = torch.export.load(file)
    assert [node.target for node in program.graph.nodes].count(torch.ops.crossd_ops.sample_convolution.default) == 1
    for samples in (2, 7):
        input = torch.randn(samples, 4, pixels[0] + 3, *pixels[1:])
        torch.testing.assert_close(program.module()(input), layer(input))


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
@SHAPES
def test_jit_trace(pixels: tuple[int, ...]) -> None:
    layer = Layer(len(pixels)).double()
    traced = torch.jit.trace(layer, torch.randn(2, 4, *pixels).double())
    for samples in (1, 3):
        input = torch.randn(samples, 4, *(size + 2 for size in pixels)).double()
        torch.testing.assert_close(traced(input), layer(input), rtol=0, atol=1e-11)


def test_one_node_of_torch_fx() -> None:
    graph = torch.fx.symbolic_trace(lambda x, w: sample_conv2d(x, w, stride=2))
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [sample_conv2d]
    input, weight, _ = tensors()
    torch.testing.assert_close(graph(input, weight), sample_conv2d(input, weight, stride=2))


def test_meta_tensors_have_shapes() -> None:
    input, weight, bias = (tensor.to("meta") for tensor in tensors(4, (6, 7, 5)))
    assert convolve(input, weight, bias, stride=2, padding=1).shape == (3, 6, 3, 4, 3)


# --- the operators ---


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("place", [[2, 1, 1, 2], [2, 1, 0, 1, 1, 2, 2]], ids=str)
def test_opcheck(place: list[int]) -> None:
    input, weight, bias = (tensor.detach() for tensor in tensors(4, (8, 7), 2))
    operators = torch.ops.crossd_ops
    torch.library.opcheck(operators.sample_convolution.default, (input, weight, bias, place))
    grad = torch.randn_like(operators.sample_convolution(input, weight, None, place))
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(operators.sample_convolution_backward.default, (grad, input, weight, place, *needs))


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("empty", [None, "samples", "outputs", "inputs"])
@SHAPES
def test_tracers_are_told_sizes_and_strides(pixels: tuple[int, ...], empty: str | None, last: bool) -> None:
    """Where there is nothing to add up, the result is the bias, and gradients are zero."""
    samples, outputs, inputs = (0 if name == empty else 4 for name in ("samples", "outputs", "inputs"))
    input, weight = torch.randn(samples, inputs, *pixels), torch.randn(samples, outputs, inputs, *pixels[:-2], 3, 2)
    bias = torch.randn(outputs)
    if last:
        input = input.contiguous(memory_format=CHANNELS_LAST[input.dim()])
    operators = torch.ops.crossd_ops

    def call(mode: FakeTensorMode | None) -> list[Tensor]:
        x, w, b = (tensor if mode is None else mode.from_tensor(tensor) for tensor in (input, weight, bias))
        output = operators.sample_convolution(x, w, b, (1, 1, 1, 1))
        needs = itertools.product([True, False], repeat=2)
        found = [operators.sample_convolution_backward(output, x, w, (1, 1, 1, 1), *need) for need in needs]
        return [output, *(gradient for gradients in found for gradient in gradients)]

    real = call(None)
    with FakeTensorMode() as mode:
        fake = call(mode)
    assert [(item.shape, item.stride()) for item in fake] == [(item.shape, item.stride()) for item in real]
    if empty:
        broadcast = bias.reshape(-1, *(1 for _ in pixels)).expand_as(real[0])
        torch.testing.assert_close(real[0], broadcast)
        assert not any(gradient.any() for gradient in real[1:])


BIAS = r"bias: expected \(6,\) of the dtype of input, or float32 beside a half type,"
GOOD: dict[str, Any] = {
    "input": torch.zeros(2, 4, 6, 5),
    "weight": torch.zeros(2, 6, 2, 3, 3),
    "bias": torch.zeros(6),
    "place": [1, 1, 0, 0, 1, 1, 2],
}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": torch.zeros(2, 4, 6)}, r"input: expected \(B, C, H, W\) or \(B, C, D, H, W\), got \(2, 4, 6\)"),
    ({"input": torch.zeros(2, 5, 6, 5)}, r"input: expected \(2, 4, ...\), got \(2, 5, 6, 5\)"),
    ({"input": torch.zeros(3, 4, 6, 5)}, r"input: expected \(2, 4, ...\), got \(3, 4, 6, 5\)"),
    ({"input": torch.zeros(2, 4, 6, 2)}, r"input: expected at least 3 pixels along each axis with padding"),
    ({"input": torch.zeros(2, 4, 6, 5).double()}, "input: expected the dtype of weight"),
    ({"input": torch.zeros(2, 4, 6, 5, 5)}, r"weight: expected \(B, O, C, Kd, Kh, Kw\), got \(2, 6, 2, 3, 3\)"),
    ({"weight": torch.zeros(6, 2, 3, 3)}, r"weight: expected \(B, O, C, Kh, Kw\), got \(6, 2, 3, 3\)"),
    ({"weight": torch.zeros(2, 6, 2, 0, 3)}, r"weight: expected kernel sizes from 1 to 2\^31 - 1, got \(2, 6, 2, 0"),
    ({"weight": torch.zeros(0, 6, 2, 2**40, 3)}, r"weight: expected kernel sizes from 1 to 2\^31 - 1, got \(0, 6, 2"),
    ({"weight": torch.zeros(2, 6, 2, 3, 3).int()}, "weight: expected a dtype of float64, float32"),
    ({"bias": torch.zeros(5)}, BIAS + r" got \(5,\)"),
    ({"bias": torch.zeros(6).double()}, BIAS + r" got \(6,\)"),
    ({"place": [1, 1, 0, 0, 1, 1, 2, 0, 1]}, r"place: .* along each of 2 axes\), groups, got \(1, 1, 0, 0, 1, 1, 2, 0"),
    ({"place": [1, 0, 0, 2]}, r"dilation: expected ints, each at least 1, got \(0,\)"),
    ({"place": [1, 0, 1, 4]}, "groups: expected a divisor of 6 output channels, got 4"),
    ({"place": [1, 2**31 - 1, 1, 2]}, r"input: expected .* fewer than 2\^58 multiply-adds"),
]


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("bad, message", REFUSED, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_the_operators_refuse_by_name(bad: dict[str, Any], message: str) -> None:
    arguments = GOOD | bad
    with pytest.raises(ValueError, match=message):
        torch.ops.crossd_ops.sample_convolution(**arguments)
    if "bias" not in bad:
        del arguments["bias"]
        with pytest.raises(ValueError, match=message):
            torch.ops.crossd_ops.sample_convolution_backward(
                torch.zeros(2, 6, 4, 3), **arguments, need_input=True, need_weight=True
            )


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize(
    "grad, message",
    [
        (torch.zeros(2, 6, 4, 4), r"grad: expected \(2, 6, 4, 3\), got \(2, 6, 4, 4\)"),
        (torch.zeros(2, 6, 4, 3).double(), "grad: expected the dtype of input"),
    ],
)
def test_a_gradient_has_to_fit_the_output(grad: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.crossd_ops.sample_convolution_backward(
            grad, GOOD["input"], GOOD["weight"], GOOD["place"], need_input=True, need_weight=True
        )
