"""Where a head's layers do nothing but their own work, so that it can be done without them; and where not."""

from __future__ import annotations

import copy

import pytest
import torch
from heads import float32_head, operator_calls
from torch import Tensor, nn

from crossd_ops import CrossDConv2d
from crossd_ops.operators.head import predict_shift
from crossd_ops.operators.rotation_head import composite

pytestmark = pytest.mark.usefixtures("compiled_library")


def test_what_the_operator_does_not_take_goes_through_the_layers() -> None:
    class Norm(nn.BatchNorm2d):
        pass

    def changed(index: int, layer: nn.Module) -> nn.Sequential:
        head = float32_head(3)
        head[index] = layer
        return head

    hooked, seen = float32_head(3), []
    hooked[2].register_forward_hook(lambda *arguments: seen.append(1))
    input = torch.randn(2, 3, 6, 5)
    heads = {
        "float64": (float32_head(3).double(), input.double()),
        "empty batch": (float32_head(3).eval(), input[:0]),
        "subclass": (changed(1, Norm(16)), input),
        "not affine": (changed(1, nn.BatchNorm2d(16, affine=False)), input),
        "no bias": (changed(0, nn.Conv2d(3, 16, 1, bias=False)), input),
        "padding": (changed(0, nn.Conv2d(3, 16, 1, padding=1)), input),
        "leaky": (changed(2, nn.LeakyReLU()), input),
        "hidden": (CrossDConv2d(3, 4, 3, rotation_channels=8).rotation_params, input),
        "hook": (hooked, input),
    }
    for name, (head, each) in heads.items():
        wanted = composite(copy.deepcopy(head)(each), "linear")
        with operator_calls() as names:
            shift = predict_shift(each, head, "linear")
        assert "crossd_ops::predict_shift" not in names, name
        torch.testing.assert_close(shift, wanted)
    assert seen


def runs_the_operator(head: nn.Sequential, input: Tensor) -> bool:
    """Whether it does now; and the shift is that of the layers, running statistics and all."""
    other = copy.deepcopy(head)
    with operator_calls() as names:
        shift = predict_shift(input, head, "linear")
    torch.testing.assert_close(shift, composite(other(input), "linear"))
    for mine, wanted in zip(head.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)
    return "crossd_ops::predict_shift" in names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["operator", "layers"])
@pytest.mark.parametrize("index", [None, 0, 1, 2, 3])
def test_hooks_are_honoured_whenever_they_come(index: int | None, dtype: torch.dtype) -> None:
    head, input = float32_head(3).to(dtype), torch.randn(2, 3, 6, 5, dtype=dtype)
    head[2] = nn.ReLU()  # torch refuses hooks on the backward pass next to one that works in place
    module: nn.Module = head if index is None else head[index]
    seen: list[str] = []

    def train(name: str, handle: torch.utils.hooks.RemovableHandle) -> None:
        with operator_calls() as names:
            predict_shift(input.clone().requires_grad_(), head, "linear").sum().backward()
        handle.remove()
        assert "crossd_ops::predict_shift" not in names and name in seen
        assert runs_the_operator(head, input) == (dtype is torch.float32)

    for name in ("forward_pre_hook", "forward_hook", "full_backward_pre_hook", "full_backward_hook"):
        train(name, getattr(module, f"register_{name}")(lambda *_, name=name: seen.append(name)))
        register_for_all = getattr(nn.modules.module, f"register_module_{name}")
        train(f"all {name}", register_for_all(lambda *_, name=name: seen.append(f"all {name}")))


def test_layers_may_change_between_calls() -> None:
    head, input = float32_head(3), torch.randn(2, 3, 6, 5)
    assert runs_the_operator(head, input)
    head[2] = nn.LeakyReLU()
    assert not runs_the_operator(head, input)
    head[2] = nn.ReLU()
    assert runs_the_operator(head, input)
    head[0] = nn.Conv2d(3, 16, 1)
    assert runs_the_operator(head, input)
    head[3].weight = nn.Parameter(torch.randn(4, 16, 1, 1))
    assert runs_the_operator(head, input)
    assert not runs_the_operator(head.double(), input.double())
    assert runs_the_operator(head.float().eval(), input)
    head[1].momentum = None
    assert runs_the_operator(head.train(), input)
    head[1].track_running_stats = False
    assert runs_the_operator(head, input)
    nn.utils.parametrize.register_parametrization(head[0], "weight", nn.Identity())
    assert not runs_the_operator(head, input)
    nn.utils.parametrize.remove_parametrizations(head[0], "weight")
    assert runs_the_operator(head, input)
    head.append(nn.Identity())
    assert not runs_the_operator(head, input)


def test_statistics_kept_outside_the_buffers_are_used() -> None:
    """As plain attributes, which some tools make of them, they are those of evaluation all the same."""
    head, input = float32_head(3, training=False), torch.randn(2, 3, 6, 5)
    wanted = predict_shift(input, head, "linear")
    for name in ("running_mean", "running_var"):
        value = getattr(head[1], name)
        delattr(head[1], name)
        setattr(head[1], name, value)
    torch.testing.assert_close(predict_shift(input, head, "linear"), wanted)
    leaf = input.clone().requires_grad_()
    torch.testing.assert_close(predict_shift(leaf, head, "linear"), wanted)


def test_a_parameter_in_two_places_gets_one_gradient() -> None:
    head = float32_head(3)
    head[1].bias = head[0].bias
    other, input = copy.deepcopy(head), torch.randn(2, 3, 6, 5)
    assert other[1].bias is other[0].bias
    for layers, shift in ((head, predict_shift(input, head, "exact")), (other, composite(other(input), "exact"))):
        (grad,) = torch.autograd.grad(shift.pow(3).sum(), layers[3].weight, create_graph=True)
        grad.square().sum().backward()
    for mine, wanted in zip(head.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-3, atol=1e-5)


def test_a_tensor_that_outlived_torch_func_is_a_plain_one() -> None:
    head, input, left = float32_head(3, training=False), torch.randn(2, 3, 6, 5), []
    torch.func.grad(lambda tensor: (left.append(tensor), tensor.sum())[1])(input)
    gradients = [
        torch.autograd.grad(predict_shift(tensor, head, "linear").sum(), head[0].weight) for tensor in (input, *left)
    ]
    assert torch.equal(*(grad for (grad,) in gradients))


def test_gradients_of_layers_that_are_not_the_plain_ones() -> None:
    """The backward pass computes plain layers again by itself; others it must not take for plain ones."""

    def changed(index: int, layer: nn.Module) -> nn.Sequential:
        head = float32_head(3, training=False)
        head[index] = layer
        return head

    hooked, longer, parametrized = (float32_head(3, training=False) for _ in range(3))
    hooked[2].register_forward_hook(lambda module, arguments, output: output * 2)
    longer.append(nn.Tanh())
    nn.utils.parametrize.register_parametrization(parametrized[3], "weight", nn.Tanh())
    heads = [
        changed(2, nn.LeakyReLU(0.5)),
        changed(0, nn.Conv2d(3, 16, 1, padding=1)),
        changed(0, nn.Conv2d(3, 16, 1, stride=2)),
        changed(3, nn.Conv2d(16, 4, 1, groups=2)),
        changed(0, nn.Conv2d(3, 16, 3, padding=1)),
        *(hooked, longer, parametrized),
    ]
    for dtype in (torch.float32, torch.float64):
        input = torch.randn(2, 3, 6, 5, dtype=dtype)
        for head in heads:
            head.to(dtype)
            shifts = predict_shift(input, head, "linear"), composite(head(input), "linear")
            ours, theirs = (torch.autograd.grad(shift.square().sum(), [*head.parameters()]) for shift in shifts)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_parameters_are_found_by_name() -> None:
    """Undoing a parametrization puts the weight behind the bias."""
    for dtype in (torch.float32, torch.float64):
        head, input = float32_head(3, training=False).to(dtype), torch.randn(2, 3, 6, 5, dtype=dtype)
        wanted = torch.autograd.grad(predict_shift(input, head, "linear").sum(), head[0].weight)
        nn.utils.parametrize.register_parametrization(head[0], "weight", nn.Identity())
        nn.utils.parametrize.remove_parametrizations(head[0], "weight")
        assert [*head[0]._parameters] == ["bias", "weight"]
        found = torch.autograd.grad(predict_shift(input, head, "linear").sum(), head[0].weight)
        torch.testing.assert_close(found, wanted)
