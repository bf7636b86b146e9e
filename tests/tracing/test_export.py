"""Export of whole networks: torch.export keeps the operators, ONNX gets plain ones; batches may be dynamic in both."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import crossd_ops
from benchmarks.models import BasicBlock, build_model
from crossd_ops import reference
from crossd_ops.conversion import CrossDConv2dSame
from crossd_ops.conversion.bake import bake
from crossd_ops.operators import export
from crossd_ops.operators.plan import fit

DYNAMIC_BATCH = {0: Dim.DYNAMIC}
DYNAMIC = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}


def with_lively_heads(model: nn.Module) -> nn.Module:
    """`model` in evaluation, with heads whose shifts differ from sample to sample by far more than rounding."""
    for module in model.modules():
        if isinstance(module, crossd_ops.CrossDConv2d | crossd_ops.CrossDConv3d):
            nn.init.normal_(module.rotation_params[-1].weight)
    return model.eval()


class SmallResNet(nn.Module):
    """Stem, one block with a shortcut of kernel size 1, and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = crossd_ops.CrossDConv2d(3, 4, 5, stride=2, padding=2)
        self.block = BasicBlock(4, 6, 2, crossd_ops.CrossDConv2d)
        self.scores = nn.Linear(6, 5)

    def forward(self, input: Tensor) -> Tensor:
        return self.scores(self.block(self.stem(input).relu()).mean((2, 3)))


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def onnx_session(model: nn.Module, inputs: tuple[Tensor, ...], shapes: Any) -> Any:
    """A session of onnxruntime for the exported model; only operators of ONNX itself are in it."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    assert {node.domain for node in program.model_proto.graph.node} == {""}
    return runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


def run(session: Any, *inputs: Tensor) -> Tensor:
    feeds = {node.name: input.numpy() for node, input in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


def assert_onnx_agrees(model: nn.Module, shapes: Any, *inputs: Tensor) -> None:
    session = onnx_session(model, (inputs[0],), None if shapes is None else (shapes,))
    for input in inputs:
        assert_close(run(session, input), model(input).detach())


def test_onnx_of_a_network_with_a_static_batch() -> None:
    assert_onnx_agrees(with_lively_heads(SmallResNet()), None, torch.randn(3, 3, 16, 12))


def test_onnx_of_a_network_with_a_dynamic_batch_and_image() -> None:
    sizes = (2, 3, 16, 12), (5, 3, 16, 12), (1, 3, 11, 14)
    assert_onnx_agrees(with_lively_heads(SmallResNet()), DYNAMIC, *(torch.randn(size) for size in sizes))


def test_onnx_of_resnet18_with_a_dynamic_batch() -> None:
    model = with_lively_heads(build_model("resnet18", crossd_ops.CrossDConv2d, classes=5, width=4))
    assert_onnx_agrees(model, DYNAMIC_BATCH, *(torch.randn(samples, 3, 32, 32) for samples in (2, 5)))


def test_onnx_of_a_baked_network() -> None:
    model = with_lively_heads(SmallResNet())
    batches = [torch.randn(size, 3, 16, 12) for size in (2, 4)]
    assert_onnx_agrees(bake(model, batches, progress=False), DYNAMIC, *batches)


def fixed_layer() -> nn.Module:
    layer = crossd_ops.CrossDConv2d(4, 6, 3)
    layer.fix_shift(torch.tensor([0.6, 1.2, 0.9]))
    return layer


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (
            crossd_ops.CrossDConv2d(
                4, 6, (4, 3), padding="same", dilation=(1, 2), groups=2, padding_mode="circular", rotation="exact"
            ),
            (9, 8),
        ),
        (CrossDConv2dSame(4, 6, 3, stride=2), (9, 8)),
        (crossd_ops.CrossDConv3d(4, 6, 3, stride=(1, 2, 2)), (5, 8, 7)),
        (fixed_layer(), (9, 8)),
    ],
    ids=["even, groups, circular", "dynamic padding", "volumes", "fixed shift"],
)
def test_onnx_of_other_layers(layer: nn.Module, sizes: tuple[int, ...]) -> None:
    assert_onnx_agrees(with_lively_heads(layer), DYNAMIC_BATCH, torch.randn(2, 4, *sizes), torch.randn(5, 4, *sizes))


class Operators(nn.Module):
    def forward(self, volume: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        convolved = crossd_ops.crossd_conv3d(volume, weight, shift, padding=1, stride=2)
        return convolved.mean((1, 2, 3, 4)) + crossd_ops.fourier_shift_slice(weight, shift, dim=1).mean((1, 2, 3, 4))


def test_onnx_of_the_operators() -> None:
    weight = torch.randn(4, 3, 3, 2, 3)
    inputs = [(torch.randn(size, 3, 6, 5, 7), weight, torch.randn(size, 3)) for size in (2, 5)]
    session = onnx_session(Operators().eval(), inputs[0], (DYNAMIC_BATCH, None, DYNAMIC_BATCH))
    for each in inputs:
        assert_close(run(session, *each), Operators()(*each))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 3, 3), (4, 2, 3), (2, 4, 6), (5, 1, 4)])
def test_shift_in_plain_operations(sizes: tuple[int, int, int]) -> None:
    weight, shift = torch.randn(4, 3, *sizes).double(), torch.randn(5, 3).double()
    whole = reference.fourier_shift(weight, shift)
    torch.testing.assert_close(export.shift(weight, shift, 0, None, torch.float64), whole, rtol=0, atol=1e-13)
    for dim in range(3):
        for index in range(sizes[dim]):
            got = export.shift(weight, shift, dim, index, torch.float64)
            torch.testing.assert_close(got, whole.select(3 + dim, index), rtol=0, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("sizes", [(3, 2), (2, 3, 1)])
def test_convolution_in_plain_operations(sizes: tuple[int, ...], groups: int) -> None:
    axes = len(sizes)
    input, kernels = torch.randn(3, 4, *(8, 7, 6)[:axes]), torch.randn(3, 6, 4 // groups, *sizes)
    numbers = ((2, 1, 2)[:axes], (1, 0, 2)[:axes], (1, 2, 1)[:axes], groups)
    geometry, _ = fit(input.shape, sizes, *numbers)
    bias = torch.randn(6)
    library = nn.functional.conv2d if axes == 2 else nn.functional.conv3d
    expected = [library(x[None], kernel, bias, *numbers) for x, kernel in zip(input, kernels, strict=True)]
    torch.testing.assert_close(export.convolve(input, kernels, bias, geometry), torch.cat(expected))


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize("shapes", [None, (DYNAMIC_BATCH,)], ids=["static", "dynamic"])
def test_torch_export_keeps_the_operators_when_saved(shapes: Any) -> None:
    model = with_lively_heads(SmallResNet())
    program = torch.export.export(model, (torch.randn(3, 3, 16, 12),), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    targets = [node.target for node in loaded.graph.nodes]
    assert targets.count(torch.ops.crossd_ops.convolution.default) == 3  # the shortcut has kernel size 1
    assert targets.count(torch.ops.crossd_ops.rotation_head.default) == 3
    for samples in (3,) if shapes is None else (3, 2, 7):
        input = torch.randn(samples, 3, 16, 12)
        torch.testing.assert_close(loaded.module()(input), model(input))


@pytest.mark.usefixtures("compiled_library")
def test_torch_export_of_resnet18() -> None:
    model = with_lively_heads(build_model("resnet18", crossd_ops.CrossDConv2d, classes=5, width=4))
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=(DYNAMIC_BATCH,))
    for samples in (2, 5):
        input = torch.randn(samples, 3, 32, 32)
        torch.testing.assert_close(program.module()(input), model(input))
