"""A whole layer as one step of autograd: the same as the head and the convolution as a step each, whatever is asked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from heads import operator_calls
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import crossd_ops
from crossd_ops import CrossDConv2d, use_backend

pytestmark = pytest.mark.usefixtures("compiled_library")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1, "groups": 2, "bias": False},
    {"dim": 1, "index": 0, "rotation": "exact", "padding": (0, 2), "dilation": (1, 2)},
    {"kernel_size": 4, "padding": 2},
]
of_each_kind = pytest.mark.parametrize("options", OPTIONS, ids=str)


class General(CrossDConv2d):
    """A layer that never goes the straight way."""

    def forward(self, input: Tensor) -> Tensor:
        return self._general(input)


def pair(options: dict[str, Any] | None = None, training: bool = True) -> tuple[CrossDConv2d, CrossDConv2d]:
    layer = CrossDConv2d(4, 6, **{"kernel_size": 3, **(options or {})}).train(training)
    layer.rotation_params[1].running_mean.normal_()
    other = copy.deepcopy(layer)
    other.__class__ = General
    return layer, other


def counted(call: Callable[[], Any]) -> set[str]:
    with operator_calls() as names:
        call()
    return {name for name in names if name.startswith("crossd_ops::")}


def steps(output: Tensor) -> str:
    """The name of the step that made a result."""
    return type(output.grad_fn).__name__


def assert_equal_results(options: dict[str, Any] | None, training: bool, change: Callable[[Any], object]) -> None:
    image = torch.randn(3, 4, 9, 8)
    results = []
    for layer in pair(options, training):
        torch.manual_seed(5)
        change(layer)
        leaf = image.clone().requires_grad_()
        output = layer(leaf)
        assert (steps(output) == "_LayerBackward") is not isinstance(layer, General)
        wanted = [leaf, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
        first = torch.autograd.grad((output * torch.randn_like(output)).sum(), wanted, retain_graph=True)
        again = torch.autograd.grad((output * torch.randn_like(output)).sum(), wanted, create_graph=True)
        total = sum((grad * torch.randn_like(grad)).sum() for grad in again)
        second = torch.autograd.grad(total, wanted, materialize_grads=True)
        with torch.no_grad():
            quiet = layer(image)
        results.append([output, *first, *again, *second, quiet, *layer.buffers()])
    for mine, theirs in zip(*results, strict=True):
        # That of the bias before the norm is 0, and what is left are sums of rounding.
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=3e-4)


@of_each_kind
@pytest.mark.parametrize("training", [True, False])
def test_results_and_gradients_to_second_order(options: dict[str, Any], training: bool) -> None:
    assert_equal_results(options, training, lambda layer: None)


def in_half(dtype: torch.dtype, mode: str, layer: CrossDConv2d) -> Callable[[Tensor], Tensor]:
    """The layer in half types: as a module of them, or in float32 under autocast, of inputs of either type."""
    if mode == "module":
        return layer.to(dtype)

    def under_autocast(image: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return layer(image)

    return under_autocast


@of_each_kind
@pytest.mark.parametrize("mode", ["module", "autocast", "autocast of float32"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(dtype: torch.dtype, mode: str, options: dict[str, Any]) -> None:
    """Types are those of the general way; values, to second order, those of float32 at the same tensors, rounded."""
    image = torch.randn(3, 4, 9, 8).to(torch.float32 if mode == "autocast of float32" else dtype)
    image = image.contiguous(memory_format=torch.channels_last if mode == "autocast" else torch.contiguous_format)
    results = []
    for layer in pair(options):
        exact = copy.deepcopy(layer.to(dtype) if mode == "module" else layer).float()
        for module, call in ((layer, in_half(dtype, mode, layer)), (exact, exact)):
            torch.manual_seed(5)
            leaf = (image if module is layer else image.to(dtype).float()).clone().requires_grad_()
            output = call(leaf)
            wanted = [leaf, *module.parameters()]
            grad = torch.randn(output.shape).to(output.dtype)
            first = torch.autograd.grad(output, wanted, grad, retain_graph=True)
            again = torch.autograd.grad(output, wanted, grad, create_graph=True)
            total = sum((each * torch.randn(each.shape)).float().sum() for each in again)
            second = torch.autograd.grad(total, wanted, materialize_grads=True)
            results.append([output, *first, *again, *second, *module.buffers()])
    straight, exact, general, _ = results
    assert steps(straight[0]) == "_LayerBackward" != steps(general[0])
    for mine, theirs, wanted in zip(straight, general, exact, strict=True):
        assert mine.dtype is theirs.dtype
        error, size = (mine.detach().float() - wanted).norm(), wanted.detach().float().norm()
        assert error <= 2 * torch.finfo(dtype).eps * max(size, 0.5)
    assert [each.stride() for each in straight[:2]] == [each.stride() for each in general[:2]]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_with_a_backend_asked_for_by_name(backend: str) -> None:
    """The compiled kernels are what goes the straight way anyway."""
    layer, _ = pair({"bias": False})
    with use_backend(backend):
        output = layer(torch.randn(3, 4, 9, 8))
    assert (steps(output) == "_LayerBackward") == (backend == "compiled"), steps(output)


@pytest.mark.parametrize("frozen", ["weights_3d", "bias", "rotation_params", "rotation_params.0.weight"])
def test_with_something_frozen(frozen: str) -> None:
    def freeze(layer: CrossDConv2d) -> None:
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))

    assert_equal_results(None, True, freeze)


@pytest.mark.parametrize("wanted", ["input", "weights_3d", "bias", "rotation_params.1.bias"])
def test_of_one_tensor_alone(wanted: str) -> None:
    """Its gradient is that of all; no operator computes what nobody needs."""
    found = []
    image = torch.randn(2, 4, 7, 7)
    for layer in pair():
        layer.requires_grad_(False)
        leaf = image.clone().requires_grad_() if wanted == "input" else layer.get_parameter(wanted).requires_grad_()
        output = layer(leaf if wanted == "input" else image)
        found.append(torch.autograd.grad(output.square().sum(), leaf)[0])
        if wanted in ("weights_3d", "bias"):
            backward = counted(layer(image).sum().backward)
            assert backward == ({"crossd_ops::convolution_backward"} if wanted == "weights_3d" else set())
    torch.testing.assert_close(*found)


def test_checkpointing_hooks_and_layouts() -> None:
    layer, other = pair()
    image = torch.randn(2, 4, 7, 8).to(memory_format=torch.channels_last)
    seen = []
    for each, through in ((layer, True), (other, False)):
        leaf = image.clone().requires_grad_()
        leaf.register_hook(lambda grad: grad * 2)
        each.register_full_backward_hook(lambda module, grads, _: seen.append(grads[0]))
        output = checkpoint(each, leaf, use_reentrant=False) if through else each(leaf)
        output.square().sum().backward()
        seen.append(leaf.grad)
    torch.testing.assert_close(seen[:2], seen[2:])
    for mine, wanted in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-4, atol=1e-5)


class Marked(nn.Parameter):
    """A parameter that may be anything."""


CHANGES: dict[str, Callable[[CrossDConv2d], object]] = {
    "a hook in the head": lambda layer: layer.rotation_params[0].register_forward_hook(lambda *_: None),
    "another norm": lambda layer: layer.rotation_params.__setitem__(1, nn.InstanceNorm2d(16)),
    "a computed weight": lambda layer: nn.utils.parametrize.register_parametrization(
        layer, "weights_3d", nn.Identity()
    ),
    "a computed bias": lambda layer: nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity()),
    "a pruned bias": lambda layer: nn.utils.prune.l1_unstructured(layer, "bias", 0.5),
    "borders that are no zeros": lambda layer: layer.__dict__.update(padding_mode="circular"),
    "padding by name": lambda layer: layer.__dict__.update(padding="same"),
    "a weight of a subclass": lambda layer: setattr(layer, "weights_3d", Marked(layer.weights_3d.detach())),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_goes_the_general_way(change: Callable[[CrossDConv2d], object]) -> None:
    layer, image = CrossDConv2d(4, 6, 3), torch.randn(2, 4, 7, 8)
    assert steps(layer(image)) == "_LayerBackward"
    change(layer)
    assert steps(layer(image)) != "_LayerBackward"


def test_surroundings_that_need_the_general_way() -> None:
    layer, image = CrossDConv2d(4, 6, 3).eval(), torch.randn(2, 4, 7, 8)
    expected = layer(image)
    with crossd_ops.use_backend("reference"):
        assert steps(layer(image)) != "_LayerBackward"
        torch.testing.assert_close(layer(image), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.func.vmap(layer)(image[:, None])[:, 0], expected, rtol=1e-4, atol=1e-5)
    _, tangent = torch.func.jvp(layer, (image,), (torch.randn_like(image),))
    assert tangent.any()


@pytest.mark.parametrize(
    "image", [torch.randn(2, 3, 7, 7), torch.randn(4, 7, 7), torch.randn(2, 4, 2, 2), torch.randn(2, 4, 7, 7).double()]
)
def test_wrong_arguments_are_refused_in_the_same_words(image: Tensor) -> None:
    words = []
    for layer in pair():
        with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
            layer(image)
        words.append((type(caught.value), str(caught.value)))
    assert words[0] == words[1]


REFUSED: dict[str, Callable[[Any], object]] = {
    "too few pixels": lambda layer: layer.__dict__.update(dilation=(9,) * len(layer.kernel_size)),
    "a stride of 0": lambda layer: layer.__dict__.update(stride=(0,) * len(layer.kernel_size)),
    "other groups": lambda layer: layer.__dict__.update(groups=2),
    "a bias of another size": lambda layer: setattr(layer, "bias", nn.Parameter(torch.zeros(5))),
    "a bias of integers": lambda layer: setattr(layer, "bias", nn.Parameter(torch.zeros(6).long(), False)),
    "a bias elsewhere": lambda layer: setattr(layer, "bias", nn.Parameter(layer.bias.to("meta"))),
    "a weight elsewhere": lambda layer: setattr(layer, "weights_3d", nn.Parameter(layer.weights_3d.to("meta"))),
    "a weight of another rank": lambda layer: setattr(layer, "weights_3d", nn.Parameter(torch.zeros(6, 4, 3, 3))),
    "an index beyond": lambda layer: layer.__dict__.update(index=7),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", [CrossDConv2d, General, crossd_ops.CrossDConv3d])
@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_batch_that_is_refused_is_not_counted(change: Callable[[Any], object], kind: Any, autocast: bool) -> None:
    """The head's norm keeps its statistics, and what is wrong is told in words."""
    if kind is crossd_ops.CrossDConv3d and change is REFUSED["an index beyond"]:
        return
    layer = kind(4, 6, 3)
    change(layer)
    before = copy.deepcopy([*layer.buffers()])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), pytest.raises((ValueError, TypeError), match=": exp"):
        layer(torch.randn(2, 4, 8, 8, 8)[..., 0] if kind is not crossd_ops.CrossDConv3d else torch.randn(2, 4, 8, 8, 8))
    assert all(map(torch.equal, before, layer.buffers()))


def test_an_operator_that_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it count the batch twice."""
    layer, image = CrossDConv2d(4, 6, 3), torch.randn(2, 4, 7, 8)

    def fail(*_: Any) -> Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr("crossd_ops.operators.convolution.eager_forward", fail)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="no memory"):
            layer(image)
    assert layer.rotation_params[1].num_batches_tracked == 2
