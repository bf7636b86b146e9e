"""The head as one step of autograd: the gradients of its layers, nothing of its own kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, CrossDConv2dEarly, CrossDConv3d
from crossd_ops.library import loaded
from crossd_ops.operators.head import predict_shift
from crossd_ops.operators.rotation_head import composite


def layers(channels: int = 6, *, training: bool = True) -> nn.Sequential:
    """A head in float64 whose running statistics are not the initial ones."""
    head = CrossDConv2d(channels, 4, 3, dtype=torch.float64).rotation_params
    head(torch.randn(5, channels, 4, 4, dtype=torch.float64) + 1)
    return head.train(training)


def shift_and_gradients(head: nn.Sequential, input: Tensor, grad: Tensor, *, plain: bool) -> list[Tensor]:
    input = input.clone().requires_grad_()
    shift = composite(head(input), "exact") if plain else predict_shift(input, head, "exact")
    return [shift.detach(), *torch.autograd.grad(shift, [input, *head.parameters()], grad)]


@pytest.mark.parametrize("training", [True, False])
def test_equals_its_layers(training: bool) -> None:
    head = layers(training=training)
    other = copy.deepcopy(head)
    input, grad = torch.randn(3, 6, 5, 7, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    ours = shift_and_gradients(head, input, grad, plain=False)
    theirs = shift_and_gradients(other, input, grad, plain=True)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)
    assert torch.equal(head[1].running_mean, other[1].running_mean)  # counted once, not again in the backward pass
    assert torch.equal(head[1].num_batches_tracked, other[1].num_batches_tracked)


def test_statistics_that_change_before_the_backward_pass_do_not_matter() -> None:
    head = layers(training=False)
    input = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(predict_shift(input, head, "linear").sum(), input)
    loss = predict_shift(input, head, "linear").sum()
    head[1].running_mean.add_(1)
    torch.testing.assert_close(torch.autograd.grad(loss, input)[0], wanted, rtol=0, atol=0)


def test_second_derivatives() -> None:
    head = layers(2)
    input = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [*head.parameters()]

    def function(input: Tensor, *_: Tensor) -> Tensor:
        return predict_shift(input, head, "linear")

    assert torch.autograd.gradgradcheck(function, (input, *parameters), atol=1e-4)


def test_only_the_input_and_the_parameters_are_kept() -> None:
    head = layers()
    input = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        predict_shift(input, head, "linear")
    allowed = {tensor.data_ptr() for tensor in (input, *head.parameters())}
    assert {tensor.data_ptr() for tensor in kept} <= allowed


def test_autocast_is_the_same_in_both_passes() -> None:
    module = CrossDConv2d(8, 4, 3)
    input = torch.randn(2, 8, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = predict_shift(input, module.rotation_params, "linear")
        theirs = composite(module.rotation_params(input), "linear")
    grad = torch.randn(2, 3)
    for mine, wanted in zip(
        torch.autograd.grad(ours, [*module.rotation_params.parameters()], grad),
        torch.autograd.grad(theirs, [*module.rotation_params.parameters()], grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted, rtol=0.1, atol=2e-3)


def test_layers_that_do_more_than_their_own_work_run_as_they_are() -> None:
    head = layers()
    head[1] = nn.InstanceNorm2d(16, affine=True, dtype=torch.float64)
    input = torch.randn(3, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(predict_shift(input, head, "linear"), composite(head(input), "linear"))


@pytest.mark.parametrize("channels", [64, 256])
def test_autograd_keeps_what_it_keeps_for_a_plain_convolution(channels: int) -> None:
    def kept(module: nn.Module) -> int:
        """Bytes of the tensors saved for the backward pass, parameters aside."""
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        saved: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(input)
        return sum(saved.values())

    input = torch.randn(4, channels, 8, 8, requires_grad=True)
    plain = kept(nn.Conv2d(channels, 8, 3, padding=1))
    assert plain == input.untyped_storage().nbytes()
    small = 4 * 3 + (4 * 12 + 32 if loaded.load_error is None else 0)  # the shift, and what made it
    assert kept(CrossDConv2d(channels, 8, 3, padding=1)) == plain + small * 4


def test_meta_tensors_pass() -> None:
    module = CrossDConv2d(3, 4, 3, device="meta")
    output = module(torch.randn(2, 3, 8, 8, device="meta"))
    assert output.is_meta and output.shape == (2, 4, 6, 6)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


LAYERS_AND_PIXELS = [
    (CrossDConv2d, (1, 5, 1, 1)),
    (CrossDConv2dEarly, (1, 5, 1, 1)),
    (CrossDConv3d, (1, 5, 1, 1, 1)),
]
ONE_VALUE = (
    "input: expected more than 1 value per channel when training, by whose deviation the BatchNorm of this layer's "
    "head divides, got 1 sample of 1 pixel with 5 channels; give larger batches or images, or put the head into "
    "evaluation: layer.rotation_params.eval()"
)


@pytest.mark.parametrize("kind, sizes", LAYERS_AND_PIXELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)  # one operator, and layers
@pytest.mark.parametrize("plain", [True, False])
def test_one_sample_of_one_pixel_is_refused_by_name(
    kind: type[nn.Module], sizes: tuple[int, ...], dtype: torch.dtype, plain: bool
) -> None:
    layer, input = kind(5, 4, 3, padding=1, dtype=dtype), torch.randn(sizes, dtype=dtype)
    if not plain:
        layer.rotation_params.register_forward_hook(lambda *_: None)
    functions = [layer, layer.predict_shift] + [layer.predict_rotation] * (kind is not CrossDConv2dEarly)
    for function in functions:
        for context in (torch.no_grad, torch.enable_grad):
            with context(), pytest.raises(ValueError) as error:
                function(input)
            assert str(error.value) == ONE_VALUE
    layer(input.expand(2, *sizes[1:]))
    layer(input.expand(*sizes[:-1], 2))
    layer.rotation_params.eval()
    assert layer(input).shape[:2] == (1, 4)
    for buffer in ("running_mean", "running_var"):
        setattr(layer.rotation_params[1], buffer, None)
    layer.eval()  # without running statistics a norm takes those of the batch there too
    with pytest.raises(ValueError) as error:
        layer(input)
    assert str(error.value) == ONE_VALUE


def test_other_errors_of_a_head_are_its_own() -> None:
    layer = CrossDConv2d(5, 4, 3, padding=1)

    def fails(*_: object) -> None:
        raise ValueError("of a hook")

    layer.rotation_params.register_forward_hook(fails)
    with pytest.raises(ValueError, match=r"^of a hook$"):
        layer(torch.randn(2, 5, 4, 4))


def test_a_layer_that_uses_no_head_takes_one_pixel() -> None:
    fixed = CrossDConv2d(5, 4, 3, padding=1)
    fixed.fix_shift(torch.ones(3))
    for layer in (fixed, CrossDConv2d(5, 4, 1)):
        assert layer(torch.randn(1, 5, 1, 1)).shape == (1, 4, 1, 1)
