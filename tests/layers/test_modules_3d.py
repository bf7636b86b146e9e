"""CrossDConv3d: against a loop over samples with the reference, and against CrossDConv2d's head."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, CrossDConv3d, fourier_shift, reference
from crossd_ops.operators.rotation_head import rotation_head


def convolution_of_each_sample(module: CrossDConv3d, input: Tensor) -> Tensor:
    """The module's equation: the published head on the voxels, a reference kernel and nn.Conv3d's own padding."""
    scores = module.rotation_params(input).flatten(2)
    v = (scores.softmax(-1) * scores).sum(-1)
    axis = v[:, :3] / (v[:, :3].norm(dim=1, keepdim=True) + 1e-8)
    shift = reference.rotation_shift(axis, torch.tanh(v[:, 3]) * (math.pi / 4), module.rotation)
    kernels = reference.fourier_shift(module.weights_3d, shift).movedim(3 + module.dim, 3)
    plain = nn.Conv3d(
        module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,
        module.groups, module.bias is not None, module.padding_mode, dtype=input.dtype,
    )  # fmt: skip
    rows = zip(input, kernels, strict=True)
    return torch.cat([plain._conv_forward(row[None], kernel, module.bias) for row, kernel in rows])


ARGUMENTS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3, 4), "padding": (0, 1, 2), "stride": (1, 2, 1), "bias": False},
    {"kernel_size": (3, 1, 5), "dim": 1, "padding": "same", "dilation": (2, 1, 1)},
    {"kernel_size": (3, 4, 5), "dim": -1, "rotation": "exact", "groups": 2},
    {"kernel_size": 3, "padding": "valid", "rotation_channels": 5},
    *({"kernel_size": (3, 2, 3), "padding": padding, "padding_mode": mode}
      for mode in ("reflect", "replicate", "circular") for padding in ((1, 0, 2), "same")),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_every_argument_is_honoured(arguments: dict) -> None:
    module = CrossDConv3d(4, 6, **arguments, dtype=torch.float64)
    nn.init.normal_(module.rotation_params[3].weight)  # angles that differ
    input = torch.randn(3, 4, 6, 7, 8, dtype=torch.float64)
    for part in (module, module.eval()):
        torch.testing.assert_close(part(input), convolution_of_each_sample(part, input))
    own = ("dim", "rotation", "rotation_channels")
    plain = nn.Conv3d(4, 6, **{name: value for name, value in arguments.items() if name not in own})
    assert plain(input.float()).shape == module(input).shape


def test_gradients() -> None:
    module = CrossDConv3d(3, 4, (2, 3, 3), dim=1, padding=1, dtype=torch.float64)
    input = torch.randn(2, 3, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    wanted = [input, *module.parameters()]
    got = torch.autograd.grad(module(input).sin().sum(), wanted)
    expected = torch.autograd.grad(convolution_of_each_sample(module, input).sin().sum(), wanted)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
        assert mine.abs().max() > 0 or mine.shape == (16,)  # batch normalisation takes the bias before it away


def test_the_head_sees_an_image_as_a_volume_of_one_slice() -> None:
    flat, deep = CrossDConv2d(4, 6, 3, padding=1), CrossDConv3d(4, 6, 3, padding=1)
    state = flat.state_dict()
    for name in ("rotation_params.0.weight", "rotation_params.3.weight"):
        state[name] = state[name].unsqueeze(2)
    deep.load_state_dict(state, strict=True)
    input = torch.randn(3, 4, 7, 9)
    for number in range(2):
        expected = flat.predict_shift(input)
        torch.testing.assert_close(deep.predict_shift(input.unsqueeze(2)), expected)
        assert deep.rotation_params[1].num_batches_tracked == number + 1
    for mine, theirs in zip(deep.predict_rotation(input.unsqueeze(2)), flat.predict_rotation(input), strict=True):
        torch.testing.assert_close(mine, theirs)
    middle = flat.eval()(input)
    deep.eval()
    torch.testing.assert_close(deep(input.unsqueeze(2))[:, :, 0], middle)  # beside the slice is padding alone


def test_a_fixed_shift_skips_the_head() -> None:
    module = CrossDConv3d(4, 6, (3, 4, 2), dim=2, dtype=torch.float64)
    shift = torch.tensor([0.3, -1.2, 0.7])
    module.fix_shift(shift)
    input = torch.randn(2, 4, 6, 6, 6, dtype=torch.float64)
    kernel = fourier_shift(module.weights_3d, shift[None].double())[0].movedim(4, 2)
    torch.testing.assert_close(module(input), nn.functional.conv3d(input, kernel, module.bias))
    module(input).sum().backward()
    assert module.weights_3d.grad.any() and not module.rotation_params[3].weight.grad.any()
    assert module.rotation_params[1].num_batches_tracked == 0
    assert "fixed_shift" not in module.state_dict()
    assert module.bfloat16().fixed_shift.dtype is torch.float32
    module.double().fix_shift(None)
    torch.testing.assert_close(module(input), convolution_of_each_sample(copy.deepcopy(module), input))


def test_kernels_of_one_element_are_a_plain_convolution() -> None:
    module = CrossDConv3d(4, 6, 1, stride=2)
    input = torch.randn(2, 4, 5, 5, 5)
    assert torch.equal(module(input), nn.functional.conv3d(input, module.weights_3d, module.bias, 2))
    module(input).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_an_empty_batch_autocast_and_half() -> None:
    module = CrossDConv3d(4, 6, 3, padding=1)
    assert module(torch.empty(0, 4, 5, 5, 5)).shape == (0, 6, 5, 5, 5)
    input = torch.randn(2, 4, 5, 5, 5)
    expected = module.eval()(input)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(input)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(module.bfloat16()(input.bfloat16()).float(), expected, rtol=0.05, atol=0.1)


def test_shapes_of_the_weight_and_its_representation() -> None:
    assert CrossDConv3d(4, 6, (1, 2, 3), groups=2).weights_3d.shape == (6, 2, 1, 2, 3)
    assert CrossDConv3d(4, 6, (1, 2, 3), dim=1).weights_3d.shape == (6, 4, 2, 1, 3)
    assert CrossDConv3d(4, 6, (1, 2, 3), dim=2).weights_3d.shape == (6, 4, 2, 3, 1)
    text = "4, 6, kernel_size=(3, 3, 3), stride=(1, 1, 1)"
    assert CrossDConv3d(4, 6, 3).extra_repr() == text
    assert CrossDConv3d(4, 6, 3, padding=1, dim=1).extra_repr() == text + ", padding=(1, 1, 1), dim=1"


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"kernel_size": (3, 3)}, r"kernel_size: expected one int or three, each at least 1, got \(3, 3\)"),
        ({"kernel_size": 16}, r"kernel_size: expected sizes up to 15, got \(16, 16, 16\)"),
        ({"stride": 0}, "stride: expected one int or three, each at least 1, got 0"),
        ({"groups": 3}, "in_channels: expected a multiple of 3 groups, got 4"),
        ({"padding": "full"}, "padding: expected 'same', 'valid' or numbers, got 'full'"),
        ({"padding": "same", "stride": 2}, "padding: expected 'same' with stride 1 only"),
        ({"padding_mode": "wrap"}, "padding_mode: expected one of zeros, reflect, replicate, circular, got 'wrap'"),
        ({"rotation": "right"}, "rotation: expected 'linear' or 'exact', got 'right'"),
        ({"dim": 3}, "dim: expected -3 to 2, got 3"),
    ],
)
def test_wrong_arguments(wrong: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CrossDConv3d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **wrong})


def test_wrong_inputs() -> None:
    module = CrossDConv3d(4, 6, 3)
    with pytest.raises(ValueError, match=r"input: expected \(B, 4, D, H, W\), got \(2, 4, 5, 5\)"):
        module(torch.randn(2, 4, 5, 5))
    with pytest.raises(TypeError, match="input: expected a Tensor, got list"):
        module([1.0])
    with pytest.raises(ValueError, match=r"shift: expected \(3,\), got \(1, 3\)"):
        module.fix_shift(torch.ones(1, 3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_head_gives_what_its_layers_give_and_keeps_the_volume_alone(dtype: torch.dtype, training: bool) -> None:
    layer = CrossDConv3d(5, 4, 3, dtype=dtype).train(training)
    twin = copy.deepcopy(layer)
    volume = torch.randn(2, 5, 3, 4, 6, dtype=dtype, requires_grad=True)
    parameters, twins = [*layer.rotation_params.parameters()], [*twin.rotation_params.parameters()]
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        found = layer.predict_shift(volume)
    storages = {tensor.untyped_storage().data_ptr(): tensor.numel() for tensor in kept}
    of_parameters = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    assert sum(count for place, count in storages.items() if place not in of_parameters) <= volume.numel() + 100
    expected = rotation_head(twin.rotation_params(volume).flatten(2, 3), "linear")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(found)
    gradients = torch.autograd.grad(found, [volume, *parameters], weights)
    for got, want in zip(gradients, torch.autograd.grad(expected, [volume, *twins], weights), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, dict(twin.named_buffers())[name])
