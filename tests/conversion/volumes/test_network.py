"""Modules that run on volumes: copies, replicas, pickles, what compiles and traces them, and what runs them again."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from volumes import constant

from crossd_ops import CrossDConv2d, to_2d, to_3d
from crossd_ops.conversion.volumes.mode import active_mode


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, input: Tensor) -> Tensor:
        return input * torch.sigmoid(self.conv(input.mean((2, 3), keepdim=True)))


class Network(nn.Module):
    """With parts that users call by themselves."""

    def __init__(self, wrap: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(1, 4, 3, padding=1), Gate(), nn.Linear(4, 2)
        self.wrap = wrap

    def features(self, input: Tensor) -> Tensor:
        return F.max_pool2d(self.gate(self.first(input)), 2)

    def forward(self, input: Tensor) -> Tensor:
        features = self.features(input) if self.wrap is None else self.wrap(self, input)
        return self.last(features.mean(axis=(2, -1)))


def networks(proven: bool = True, **options: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    """One of images, its twin and a volume."""
    model = Network(**options).eval()
    image = torch.linspace(-1, 1, 48).view(1, 1, 6, 8)
    return model, to_3d(model, "i3d", example=image if proven else None), torch.randn(2, 1, 4, 6, 8)


def test_the_class_is_made_of_the_one_that_was() -> None:
    model, volumes, volume = networks()
    assert isinstance(volumes, Network) and type(volumes) is not Network and type(model) is Network
    assert type(volumes).__name__ == "Network" and repr(volumes).startswith("Network(\n  (first): Conv3d(")
    assert type(to_3d(model, "center", example=torch.randn(1, 1, 6, 8))) is type(volumes)
    assert volumes.features(volume).shape == (2, 4, 2, 3, 4)
    torch.testing.assert_close(volumes.gate(volume.expand(-1, 4, -1, -1, -1)).shape, (2, 4, 4, 6, 8))
    assert active_mode() is None
    back = to_2d(volumes, "i3d")
    assert [type(part) for part in back.modules()] == [type(part) for part in model.modules()]
    assert [*vars(back)] == [*vars(model)]


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved])
def test_copies_are_their_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    _, volumes, volume = networks()
    expected = volumes(volume)
    twin = copied(volumes)
    assert type(twin) is type(volumes)
    with torch.no_grad():
        for parameter in volumes.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(volume), expected)
    traced = torch.fx.symbolic_trace(twin)
    for node in traced.graph.nodes:
        node.type = None  # an annotation that is a string, as in this file, cannot be saved
    traced.recompile()
    traced = copied(traced)
    torch.testing.assert_close(traced(volume), expected)


def test_replicas_run_their_own_layers() -> None:
    _, volumes, volume = networks()
    replica = volumes._replicate_for_data_parallel()
    replica._modules = {name: copy.deepcopy(part) for name, part in volumes._modules.items()}
    for parameter in replica.last.parameters():
        parameter.data.zero_()
    assert replica(volume).abs().max() == 0 < volumes(volume).abs().max()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("what", [lambda model: model.features, lambda model: model.gate])
def test_what_is_checkpointed_is_computed_again_in_the_same_way(what: Any, reentrant: bool) -> None:
    def wrap(model: Any, input: Tensor) -> Tensor:
        if what(model) is model.gate:
            return F.max_pool2d(checkpoint(model.gate, model.first(input), use_reentrant=reentrant), 2)
        return checkpoint(model.features, input, use_reentrant=reentrant)

    gradients = []
    for way in (wrap, None):
        torch.manual_seed(0)
        _, volumes, _ = networks(wrap=way)
        volumes(torch.linspace(-1, 1, 192).view(1, 1, 4, 6, 8).requires_grad_()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in volumes.named_parameters()})
    torch.testing.assert_close(*gradients)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, input: Tensor) -> Tensor:
        return input * input.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize("reentrant", [True, False, None])
def test_functions_that_are_called_again_unseen_are_refused(reentrant: bool | None) -> None:
    def wrap(model: Any, input: Tensor) -> Tensor:
        if reentrant is None:
            return Squared.apply(model.first(input))
        return checkpoint(lambda x: x * x.mean((2, 3), keepdim=True), model.first(input), use_reentrant=reentrant)

    _, volumes, volume = networks(proven=False, wrap=wrap)  # the proof would be refused too
    with pytest.raises(TypeError, match=r"calls mean.*: in a function that torch.* calls by itself: make it a method"):
        volumes(volume.requires_grad_())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_networks_are_lifted_in_their_graph(dynamic: bool) -> None:
    torch._dynamo.reset()
    _, volumes, volume = networks()
    compiled = torch.compile(volumes, backend="eager", fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(compiled(volume), volumes(volume))
    wrong = to_3d(nn.Sequential(nn.Conv2d(1, 4, 1), Rows()), "i3d")
    with pytest.raises(Exception, match="along the height, which says nothing of the depth"):
        torch.compile(wrong, backend="eager")(volume)


class Rows(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return input.cumsum(2)


def test_exports_and_traces() -> None:
    model, volumes, volume = networks()
    expected = volumes(volume)
    exported = torch.export.export(volumes, (volume,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(volume[:1].expand(3, -1, -1, -1, -1)), expected[:1].expand(3, -1))
    torch.testing.assert_close(torch.jit.trace(volumes, (volume,))(2 * volume), volumes(2 * volume))
    with pytest.raises(TypeError, match=r"expected torch\.jit\.trace or torch\.export for Network"):
        torch.jit.script(volumes)
    before = to_3d(torch.fx.symbolic_trace(model), "i3d", example=torch.randn(1, 1, 6, 8))
    after = torch.fx.symbolic_trace(volumes)
    for traced in (before, after, torch.fx.symbolic_trace(before), copy.deepcopy(before)):
        torch.testing.assert_close(traced(volume), expected)
    image = torch.randn(2, 1, 6, 8)
    torch.testing.assert_close(to_2d(before, "i3d")(image), model(image))
    with pytest.raises(TypeError, match=r"a graph that works on volumes too, got one that calls cumsum.*the height"):
        to_3d(torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 4, 1), Rows())), "i3d")(volume)


class Unattached(nn.Module):
    """As a LightningModule, whose trainer is a property that raises before there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, 4, 3)

    @property
    def trainer(self) -> Any:
        raise RuntimeError("not attached to a trainer")

    @property
    def interpolate(self) -> Any:
        raise AttributeError("not there yet")

    def training_step(self, batch: Any) -> Any:
        return self.trainer.world_size, self.interpolate

    def forward(self, input: Tensor) -> Tensor:
        return self.net(input)


def test_no_property_is_read() -> None:
    volumes = to_3d(Unattached(), "i3d", example=torch.randn(1, 1, 4, 5))
    assert volumes(torch.randn(1, 1, 4, 4, 4)).shape == (1, 4, 2, 2, 2)
    assert to_2d(volumes, "i3d")(torch.randn(1, 1, 4, 4)).shape == (1, 4, 2, 2)


class OfVolumes(nn.Module):
    """Code for any number of axes, as MONAI's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, input: Tensor) -> Tensor:
        output = self.conv(input)
        axes = len(output.shape) - 2
        amounts = [0] * (2 * axes)
        for axis in range(axes):
            if output.shape[-axis - 1] != input.shape[-axis - 1] or axis == 0:
                amounts[2 * axis + 1] = 1
        return F.pad(output, amounts, "replicate").mean(tuple(range(2, 2 + axes)))


def test_code_for_any_number_of_axes() -> None:
    model, image = OfVolumes(), torch.randn(2, 1, 5, 6)
    torch.testing.assert_close(to_3d(model, "i3d", example=image)(constant(image, 3)), model(image))


def test_layers_of_this_package_run_outside_of_the_mode() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = CrossDConv2d(1, 4, 3, padding=1, padding_mode="circular")
            self.plain = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")

        def forward(self, input: Tensor) -> Tensor:
            return self.plain(self.conv(input))

    model, volume = Inner().eval(), torch.randn(2, 1, 4, 5, 6)
    for recipe in ({"plain": "acs", "*": "crossd"}, "published", "crossd"):
        volumes = to_3d(model, recipe, example=torch.randn(1, 1, 5, 6))
        torch.testing.assert_close(volumes(volume), volumes.plain(volumes.conv(volume)))


@pytest.mark.parametrize("threads", [2])
def test_threads_do_not_share_the_mode(threads: int) -> None:
    import concurrent.futures

    _, volumes, volume = networks()
    expected = volumes(volume)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for output in pool.map(volumes, [volume] * 8):
            torch.testing.assert_close(output, expected)


def test_hooks_may_take_volumes_out_of_torch() -> None:
    _, volumes, volume = networks()
    seen: list[Any] = []
    volumes.gate.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().numpy()))
    volumes(volume)
    assert seen[0].shape == (2, 4, 4, 6, 8)


def test_vmap_around_a_network() -> None:
    _, volumes, _ = networks()
    many = torch.randn(3, 1, 1, 4, 6, 8)
    torch.testing.assert_close(torch.vmap(volumes)(many), torch.stack([volumes(one) for one in many]))


class Called(nn.Module):
    """With its code where others have none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def __call__(self, input: Tensor) -> Tensor:
        return self.conv(input).mean((2, 3))


def test_code_of_a_call() -> None:
    model, image = Called(), torch.randn(2, 1, 5, 6)
    torch.testing.assert_close(to_3d(model, "i3d", example=image)(constant(image, 3)), model(image))


@pytest.mark.parametrize("as_buffer", [True, False])
def test_tensors_of_five_axes_in_code_for_images_are_refused(as_buffer: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), Gate())
    if as_buffer:
        model[1].register_buffer("bias", torch.zeros(1, 2, 3, 4, 5))
    else:
        model[1].bias = torch.zeros(1, 2, 3, 4, 5)
    with pytest.raises(TypeError, match=r"^1\.bias: expected a tensor of other than five axes in code for images, got"):
        to_3d(model, "i3d")
