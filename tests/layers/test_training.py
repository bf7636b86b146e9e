"""What people train with: mixed precision, memory formats, checkpointing, accumulation, frozen parts, resuming."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossd_ops import CrossDConv2d, fourier_shift_slice


def network() -> nn.Sequential:
    """A 3x3, a strided 3x3 and a 1x1 layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        CrossDConv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        CrossDConv2d(8, 8, 3, stride=2, padding=1, bias=False),
        CrossDConv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def batch(samples: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 3, 10, 9), torch.arange(samples) % 4


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    return [parameter.grad.clone() for parameter in model.parameters()]


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(images).float(), labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_scaler_lowers_the_loss(dtype: torch.dtype) -> None:
    model, (images, labels) = network(), batch(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = loss_of(model, images, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_a_bfloat16_model_trains() -> None:
    model, (images, labels) = network().to(torch.bfloat16), batch()
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss_of(model, images.bfloat16(), labels)))


def test_channels_last_changes_nothing() -> None:
    model, (images, labels) = network(), batch()
    other = copy.deepcopy(model)
    expected = gradients(other, loss_of(other, images, labels))
    model = model.to(memory_format=torch.channels_last)
    found = gradients(model, loss_of(model, images.to(memory_format=torch.channels_last), labels))
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-5)


def test_checkpointing_gives_the_same_gradients() -> None:
    model, (images, labels) = network().eval(), batch()
    expected = gradients(model, loss_of(model, images, labels))
    found = gradients(model, nn.functional.cross_entropy(checkpoint(model, images, use_reentrant=False), labels))
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_functional_call_differentiates() -> None:
    model, (images, labels) = network().eval(), batch()
    parameters = dict(model.named_parameters())
    expected = gradients(model, loss_of(model, images, labels))
    found = torch.func.grad(
        lambda values: nn.functional.cross_entropy(torch.func.functional_call(model, values, images), labels)
    )(parameters)
    for mine, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_each_sample_by_vmap() -> None:
    model, (images, labels) = network().eval(), batch()
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, values, image[None]), label[None])

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    for sample in range(len(images)):
        expected = gradients(model, loss_of(model, images[sample : sample + 1], labels[sample : sample + 1]))
        for mine, wanted in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(mine[sample], wanted, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    model, (images, labels) = network().eval(), batch()
    expected = gradients(model, loss_of(model, images, labels))
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (loss_of(model, images[half], labels[half]) / 2).backward()
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", ["weights_3d", "rotation_params"])
def test_frozen_parts_get_nothing_and_the_rest_is_unchanged(frozen: str) -> None:
    model, (images, labels) = network().eval(), batch()
    names = [name for name, _ in model.named_parameters()]
    expected = dict(zip(names, gradients(model, loss_of(model, images, labels)), strict=True))
    for name, parameter in model.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(frozen not in name)
    loss_of(model, images, labels).backward()
    for name, parameter in model.named_parameters():
        if frozen in name:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("samples", [0, 1])
def test_smallest_batches(samples: int) -> None:
    model = network().eval()
    images, _ = batch(samples)
    output = model(images)
    assert output.shape == (samples, 4)
    assert all(gradient.isfinite().all() for gradient in gradients(model, output.sum()))


def test_deterministic_algorithms_and_equal_runs() -> None:
    images, labels = batch()
    expected = gradients(model := network(), loss_of(model, images, labels))
    torch.use_deterministic_algorithms(True)  # raises where there is no such algorithm, and fills new memory with NaN
    try:
        runs = [gradients(model := network(), loss_of(model, images, labels)) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    for found in runs:
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def fixed_layer(**arguments: Any) -> tuple[CrossDConv2d, Tensor]:
    """A layer with a fixed shift, whose head fails where it is called, and that shift."""

    def fail(*_: object) -> None:
        raise AssertionError("the head was called")

    shift = torch.tensor([0.7, 1.25, -0.4])
    layer = CrossDConv2d(4, 6, 3, padding=1, groups=2, **arguments)
    layer.fix_shift(shift)
    layer.rotation_params.register_forward_pre_hook(fail)
    for module in layer.rotation_params:
        module.register_forward_pre_hook(fail)
    return layer, shift


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_a_fixed_shift_is_one_convolution(samples: int, training: bool) -> None:
    layer, shift = fixed_layer(dim=1, index=2)
    layer.train(training)
    input = torch.randn(samples, 4, 7, 6, requires_grad=True)
    weight = layer.weights_3d.detach().clone().requires_grad_()
    kernel = fourier_shift_slice(weight, shift[None], dim=1, index=2)[0]
    expected = nn.functional.conv2d(input, kernel, layer.bias, padding=1, groups=2)
    found = layer(input)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    (wanted_input, wanted_weight) = torch.autograd.grad(expected.square().sum(), (input, weight))
    torch.testing.assert_close(layer.weights_3d.grad, wanted_weight)
    torch.testing.assert_close(input.grad, wanted_input)
    assert all(value.grad is not None and not value.grad.any() for value in layer.rotation_params.parameters())
    assert layer.rotation_params[1].num_batches_tracked == 0
    assert layer.training is training


def test_a_fixed_shift_moves_and_is_copied_with_the_layer_alone() -> None:
    free = CrossDConv2d(4, 6, 3, padding=1, groups=2)
    layer, shift = fixed_layer()
    assert list(layer.state_dict()) == list(free.state_dict())
    input = torch.randn(2, 4, 7, 6)
    expected = layer(input)
    torch.testing.assert_close(copy.deepcopy(layer)(input), expected)
    double = copy.deepcopy(layer).double()
    torch.testing.assert_close(double(input.double()), expected.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(copy.deepcopy(layer).bfloat16().fixed_shift, shift), "a half type has no digits for a shift"
    assert layer.to("meta")(input.to("meta")).is_meta
    free.load_state_dict(double.state_dict())
    assert free.fixed_shift is None
    free.fix_shift(shift)
    torch.testing.assert_close(free(input), expected)


def test_a_fixed_shift_can_be_changed_and_undone() -> None:
    layer = CrossDConv2d(4, 6, 3).eval()
    input, shift = torch.randn(2, 4, 7, 6), torch.tensor([0.5, 1.5, -1.0])
    predicted = layer(input)
    layer.fix_shift(shift)
    fixed = layer(input)
    assert not torch.allclose(fixed, predicted)
    shift.zero_()
    assert torch.equal(layer(input), fixed), "the layer shares the caller's tensor"
    layer.fix_shift(shift)
    assert not torch.allclose(layer(input), fixed)
    layer.fix_shift(None)
    assert torch.equal(layer(input), predicted)


@pytest.mark.parametrize("shift", [torch.zeros(1, 3), torch.zeros(2), torch.zeros(3, dtype=torch.long)], ids=str)
def test_what_is_no_shift_is_refused(shift: Tensor) -> None:
    layer, before = fixed_layer()
    with pytest.raises((TypeError, ValueError), match="shift: expected"):
        layer.fix_shift(shift)
    assert torch.equal(layer.fixed_shift, before)


def test_a_resumed_run_continues_bit_for_bit() -> None:
    images, labels = batch()

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss_of(model, images, labels).backward()
        optimizer.step()

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step(model, optimizer)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    step(model, optimizer)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(saved["model"])
    other = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    other.load_state_dict(saved["optimizer"])
    step(resumed, other)
    for one, two in zip(model.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)
