"""Symbolic traces of torch.fx: layers are nodes, functions are calls, and a trace computes what the network does."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from model_zoo import library
from torch import Tensor, fx, nn
from torch.fx import symbolic_trace

import crossd_ops
from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv2dEarly, CrossDConv3d, to_3d, to_crossd

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "CrossDConv2d": lambda: CrossDConv2d(4, 6, 3, padding="same"),
    "pointwise": lambda: CrossDConv2d(4, 6, 1),
    "fixed": lambda: fixed(CrossDConv2d(4, 6, 3)),
    "CrossDConv2dEarly": lambda: CrossDConv2dEarly(4, 6, 3, stride=2),
    "CrossDConv2dSame": lambda: crossd_ops.conversion.CrossDConv2dSame(4, 6, 3, stride=2),
    "CrossDConv3d": lambda: CrossDConv3d(4, 6, 3, padding=1, padding_mode="reflect"),
    "ACSConv3d": lambda: ACSConv3d(4, 6, 3),
    "Conv3dSame": lambda: crossd_ops.conversion.Conv3dSame(4, 6, 3, stride=2),
    "LayerNorm3d": lambda: crossd_ops.conversion.LayerNorm3d(4),
}


def fixed(layer: Any) -> nn.Module:
    layer.fix_shift(torch.tensor([0.25, 1.5, -0.5]))
    return layer


def input_of(layer: nn.Module) -> Tensor:
    return torch.randn(3, 4, *[8] * (3 if "3d" in type(layer).__name__ else 2))


def call_modules(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def training_step(model: nn.Module, input: Tensor) -> dict[str, Tensor]:
    """Everything that a step leaves behind: output, gradients, buffers."""
    model.zero_grad()
    leaf = input.clone().requires_grad_()
    output = model(leaf)
    output.square().sum().backward()
    gradients = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    return {"output": output.detach(), "of input": leaf.grad, **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("name", LAYERS)
def test_a_trace_is_the_network(name: str) -> None:
    """In training and in evaluation, in copies and pickles, and when the shift is fixed after it was traced."""
    model = nn.Sequential(LAYERS[name](), nn.ReLU())
    trace, input = symbolic_trace(copy.deepcopy(model)), input_of(model[0])
    assert call_modules(trace.graph) == ["0", "1"] and len(trace.graph.nodes) == 4
    for other in (copy.deepcopy(trace), pickle.loads(pickle.dumps(trace)), trace):
        for training in (True, False):
            expected = training_step(copy.deepcopy(model).train(training), input)
            got = training_step(other.train(training), input)
            assert set(got) == set(expected)
            for key, value in expected.items():
                assert torch.equal(got[key], value), (key, training)
            other.load_state_dict(model.state_dict())
    if isinstance(model[0], CrossDConv2d | CrossDConv3d):
        for whole in (model, trace):
            fixed(whole.eval().get_submodule("0"))
        assert torch.equal(trace(input), model(input))


def test_hooks_run_once() -> None:
    """With the node, not while it is traced."""
    model = nn.Sequential(CrossDConv2d(4, 6, 3), nn.ReLU()).eval()
    calls: list[type] = []

    def before(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        calls.append(type(arguments[0]))
        return (arguments[0] + 1,)

    model[0].register_forward_pre_hook(before)
    model[0].register_forward_hook(lambda module, arguments, output: output * 2)
    trace, input = symbolic_trace(model), torch.randn(2, 4, 8, 8)
    assert calls == []
    assert torch.equal(trace(input), model(input))
    assert calls == [Tensor, Tensor]


def test_shared_and_nested_layers_and_keywords() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = CrossDConv2d(4, 4, 3, padding=1), CrossDConv2d(4, 4, 1)

        def forward(self, image: Tensor) -> Tensor:
            return self.second(input=self.first(image)) + self.first(input=image)

    model = nn.Sequential(Block(), Block()).eval()
    trace, input = symbolic_trace(model), torch.randn(2, 4, 8, 8)
    assert call_modules(trace.graph) == [f"{block}.{name}" for block in (0, 1) for name in ("first", "second", "first")]
    assert torch.equal(trace(input), model(input))


class AllLeaves(fx.Tracer):
    """Someone's own tracer, which takes every module for a leaf."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True


def test_other_tracers() -> None:
    model = nn.Sequential(CrossDConv2d(4, 6, 3), nn.ReLU())
    assert call_modules(AllLeaves().trace(model)) == ["0", "1"]
    again = symbolic_trace(symbolic_trace(model))
    assert call_modules(again.graph) == ["0", "1"]
    node = next(node for node in again.graph.nodes if node.op == "call_module")
    assert node.meta["nn_module_stack"] == {"0": ("0", CrossDConv2d)}


def test_what_is_no_part_of_a_network_is_refused() -> None:
    """A layer that is traced itself has no name that a node could call it by; nor have its methods."""
    layer = CrossDConv2d(4, 6, 3)

    class Predicts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, input: Tensor) -> Tensor:
            return self.layer.predict_shift(input)

    for module in (layer, CrossDConv3d(4, 6, 3), ACSConv3d(4, 6, 3), Predicts()):
        with pytest.raises(TypeError, match=r"^input: expected a Tensor, got Proxy$"):
            symbolic_trace(module)


class Functions(nn.Module):
    """Every function, with positions and keywords, sizes that the input decides, and parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 2, 3, 3, 3)), nn.Parameter(torch.randn(4))

    def forward(self, input, axis, angle):  # type: ignore[no-untyped-def] # a trace with annotations has no pickle
        shift = crossd_ops.rotation_shift(axis, angle=angle, rotation="exact")
        return [
            crossd_ops.crossd_conv2d(input, self.weight, shift, self.bias, padding=input.shape[2] // 4, dim=1),
            crossd_ops.crossd_conv3d(input[:, :, None].expand(-1, -1, 4, -1, -1), self.weight, shift),
            crossd_ops.fourier_shift(weight=self.weight, shift=shift),
            crossd_ops.fourier_shift_slice(self.weight, shift, index=0),
        ]


def test_functions_are_calls(backend: str) -> None:
    model = Functions()
    trace = symbolic_trace(model)
    names = ["rotation_shift", "crossd_conv2d", "crossd_conv3d", "fourier_shift", "fourier_shift_slice"]
    ours = [getattr(crossd_ops, name) for name in names]
    assert [node.target for node in trace.graph.nodes if node.target in ours] == ours
    assert not [node for node in trace.graph.nodes if node.op != "output" and not node.users]
    for other in (trace, copy.deepcopy(trace), pickle.loads(pickle.dumps(trace))):
        for rows in (8, 12):
            arguments = torch.randn(2, 2, rows, 8), torch.randn(2, 3), torch.randn(2, 1)
            got, expected = other(*arguments), model(*arguments)
            assert all(torch.equal(mine, wanted) for mine, wanted in zip(got, expected, strict=True))
            parameters = [*model.parameters()]
            gradients = torch.autograd.grad(sum(value.sum() for value in got), [*other.parameters()])
            theirs = torch.autograd.grad(sum(value.sum() for value in expected), parameters)
            assert all(torch.equal(mine, wanted) for mine, wanted in zip(gradients, theirs, strict=True))


def test_functions_keep_their_signatures() -> None:
    assert [*inspect.signature(crossd_ops.crossd_conv2d).parameters][:3] == ["input", "weight", "shift"]
    with pytest.raises(TypeError, match=r"^fourier_shift\(\) got an unexpected keyword argument 'axis'"):
        crossd_ops.fourier_shift(torch.zeros(1, 1, 3, 3, 3), torch.zeros(1, 3), axis=0)  # type: ignore[call-arg]


def captured(model: nn.Module, names: list[str], input: Tensor) -> dict[str, Tensor]:
    """What the modules of these names return."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name in names
    ]
    model(input)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", ["crossd", "3d", "3d of crossd", "acs"])
def test_feature_extractors_of_torchvision(kind: str) -> None:
    model = library("torchvision").models.resnet18(num_classes=5)
    input = torch.randn(2, 3, 32, 32) if kind == "crossd" else torch.randn(2, 3, 8, 32, 32)
    if kind == "crossd":
        model = to_crossd(model)
    elif kind == "3d of crossd":
        model = to_3d(to_crossd(model), "crossd")
    else:
        model = to_3d(model, "i3d" if kind == "3d" else kind)
    extraction = importlib.import_module("torchvision.models.feature_extraction")
    names = ["layer1.0.conv1", "layer2"]
    assert set(extraction.get_graph_node_names(model)[1]) >= {"conv1", "layer1.0.conv1", "layer4.1.conv2"}
    for training in (False, True):
        extractor = extraction.create_feature_extractor(model, {name: name for name in names}).train(training)
        expected = captured(copy.deepcopy(model).train(training), names, input)
        got = extractor(input)
        assert list(got) == names
        for name in names:
            assert torch.equal(got[name], expected[name]), (name, training)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "tf_efficientnet_b0", "nfnet_l0"])
def test_features_of_timm(name: str) -> None:
    """Padding as TensorFlow's and standardised weights among them; and 3D twins of timm's own layers."""
    timm = library("timm")
    model = to_crossd(timm.create_model(name, num_classes=5)).eval()
    modules = [info["module"] for info in model.feature_info][1:3]
    features = timm.models.FeatureGraphNet(model, out_indices=(1, 2)).eval()
    input = torch.randn(1, 3, 64, 64)
    expected = captured(model, modules, input)
    for module, got in zip(modules, features(input), strict=True):
        torch.testing.assert_close(got, expected[module])
    volumes = to_3d(timm.create_model(name, num_classes=5).eval(), "i3d")
    volume = torch.randn(1, 3, 32, 32, 32)
    torch.testing.assert_close(symbolic_trace(volumes)(volume), volumes(volume))
