"""CrossDConv2d: against the published layer, against a loop over samples, and in the company it will keep."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, reference


class PublishedLayer(nn.Module):
    """The layer as the paper's equations state it: FFT, phase of a rotated frequency grid, inverse, middle slice."""

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int, padding: int, groups: int) -> None:
        super().__init__()
        self.weights_3d = nn.Parameter(torch.randn(out_channels, in_channels // groups, size, size, size) / size)
        self.rotation_params = nn.Sequential(
            nn.Conv2d(in_channels, 16, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Conv2d(16, 4, 1)
        )
        self.options = {"stride": stride, "padding": padding, "groups": groups}

    def forward(self, x: Tensor) -> Tensor:
        pooled = []
        for channel in self.rotation_params(x).unbind(1):
            flat = channel.flatten(1)
            pooled.append((F.softmax(flat, dim=1) * flat).sum(1))
        axis = torch.stack(pooled[:3], dim=1)
        axis = axis / (axis.norm(dim=1, keepdim=True) + 1e-8)
        angle = torch.tanh(pooled[3]) * (math.pi / 4)
        kx, ky, kz = axis.unbind(1)
        zero = torch.zeros_like(kx)
        cross = torch.stack([zero, -kz, ky, kz, zero, -kx, -ky, kx, zero], dim=1).view(-1, 3, 3)
        rotation = torch.eye(3, dtype=x.dtype) + angle.view(-1, 1, 1) * cross
        size = self.weights_3d.shape[-1]
        frequency = torch.fft.fftfreq(size, dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(frequency, frequency, frequency, indexing="ij")).reshape(3, -1)
        phase = torch.exp(-2j * math.pi * (rotation @ grid).sum(1)).reshape(-1, 1, 1, size, size, size)
        moved = torch.fft.ifftn(torch.fft.fftn(self.weights_3d, dim=(-3, -2, -1)) * phase, dim=(-3, -2, -1)).real
        rows = zip(x, moved[:, :, :, size // 2], strict=True)
        return torch.cat([F.conv2d(row[None], kernel, **self.options) for row, kernel in rows])


LAYERS = [(4, 6, 3, 1, 1, 1), (4, 8, 3, 2, 1, 2), (3, 5, 7, 2, 3, 1), (4, 4, 4, 1, 2, 4), (3, 4, 5, 1, 0, 1)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_published_layer(backend: str, layer: tuple[int, ...], bias: bool) -> None:
    in_channels, out_channels, size, stride, padding, groups = layer
    published = PublishedLayer(*layer)
    module = CrossDConv2d(in_channels, out_channels, size, stride, padding, groups=groups, bias=bias)
    state = published.state_dict()
    module.load_state_dict(state, strict=True)
    assert "bias" not in state
    for _ in range(2):
        input = torch.randn(5, in_channels, 12, 12)
        torch.testing.assert_close(module(input), published(input), rtol=0, atol=1e-5)
    for name, buffer in published.named_buffers():
        torch.testing.assert_close(module.get_buffer(name), buffer)
    assert module.rotation_params[1].num_batches_tracked == 2
    module.eval(), published.eval()
    torch.testing.assert_close(module(input), published(input), rtol=0, atol=1e-5)


def test_gradients_of_the_published_layer(backend: str) -> None:
    published, module = PublishedLayer(4, 6, 3, 1, 1, 1).double(), CrossDConv2d(4, 6, 3, padding=1).double()
    module.load_state_dict(published.state_dict())
    input = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    for layer in (published, module):
        layer(input).sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    for name, parameter in published.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-9)
        # Batch normalisation takes the bias before it away.
        assert parameter.grad.abs().max() > 1e-4 or name == "rotation_params.0.bias"


def test_loading_a_published_state_dict_zeroes_the_bias_alone_and_checks_the_rest() -> None:
    published, module = PublishedLayer(4, 6, 3, 1, 1, 1), CrossDConv2d(4, 6, 3)
    assert module.bias.abs().max() > 0
    module.load_state_dict(published.state_dict())
    assert torch.equal(module.bias, torch.zeros(6))
    own = copy.deepcopy(module.state_dict())
    own["bias"] += 1
    module.load_state_dict(own)
    assert torch.equal(module.bias, torch.ones(6))
    with pytest.raises(RuntimeError, match="size mismatch for weights_3d"):
        module.load_state_dict(PublishedLayer(4, 6, 5, 1, 1, 1).state_dict())
    incomplete = published.state_dict()
    del incomplete["rotation_params.3.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*rotation_params\.3\.weight"):
        module.load_state_dict(incomplete)
    with pytest.raises(RuntimeError, match=r"Missing key.*weights_3d"):
        module.load_state_dict({})
    nested = nn.Sequential(nn.ReLU(), CrossDConv2d(4, 6, 3, device="meta"))
    prefixed = {f"1.{name}": tensor for name, tensor in published.state_dict().items()}
    nested.load_state_dict(prefixed, assign=True)
    assert torch.equal(nested[1].bias, torch.zeros(6))


def convolution_of_each_sample(module: CrossDConv2d, input: Tensor) -> Tensor:
    """The module's equation with a reference kernel for each sample and nn.Conv2d's own handling of padding."""
    axis, angle = module.predict_rotation(input)
    shift = reference.rotation_shift(axis, angle, module.rotation)
    kernels = reference.fourier_shift_slice(module.weights_3d, shift, dim=module.dim, index=module.index)
    plain = nn.Conv2d(
        module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,
        module.groups, module.bias is not None, module.padding_mode, dtype=input.dtype,
    )  # fmt: skip
    rows = zip(input, kernels, strict=True)
    return torch.cat([plain._conv_forward(row[None], kernel, module.bias) for row, kernel in rows])


ARGUMENTS = [
    {"kernel_size": 3},
    {"kernel_size": 4, "padding": 1, "bias": False},
    {"kernel_size": (1, 7), "padding": (0, 3)},
    {"kernel_size": (5, 2), "stride": (2, 1), "depth": 3},
    {"kernel_size": 3, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "stride": 2, "padding": "valid", "rotation": "exact"},
    {"kernel_size": 1, "depth": 3},
    {"kernel_size": (3, 5), "dim": 1, "index": 0},
    {"kernel_size": 3, "dim": -1, "index": -1},
    *(
        {"kernel_size": (3, 4), "dilation": (2, 1), "padding": padding, "padding_mode": mode}
        for mode in ("zeros", "reflect", "replicate", "circular")
        for padding in (1, (2, 3), "same", "valid")
    ),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_every_argument_is_honoured(arguments: dict) -> None:
    module = CrossDConv2d(4, 6, **arguments, dtype=torch.float64).eval()
    input = torch.randn(3, 4, 11, 13, dtype=torch.float64)
    expected = convolution_of_each_sample(module, input)
    torch.testing.assert_close(module(input), expected)
    own = ("depth", "dim", "index", "rotation")
    plain = nn.Conv2d(4, 6, **{name: value for name, value in arguments.items() if name not in own})
    assert plain(input.float()).shape == expected.shape


def test_shapes_of_the_weight() -> None:
    assert CrossDConv2d(4, 6, 3, groups=2).weights_3d.shape == (6, 2, 3, 3, 3)
    assert CrossDConv2d(4, 6, (1, 7)).weights_3d.shape == (6, 4, 7, 1, 7)
    assert CrossDConv2d(4, 6, (1, 7), depth=3).weights_3d.shape == (6, 4, 3, 1, 7)
    assert CrossDConv2d(4, 6, (2, 5), dim=1, depth=4).weights_3d.shape == (6, 4, 2, 4, 5)
    assert CrossDConv2d(4, 6, (2, 5), dim=-1).weights_3d.shape == (6, 4, 2, 5, 5)
    assert CrossDConv2d(4, 6, 3, rotation_channels=8).rotation_params[3].weight.shape == (4, 8, 1, 1)


def test_initial_parameters() -> None:
    module = CrossDConv2d(32, 64, 3)
    assert module.weights_3d.std().item() == pytest.approx(math.sqrt(2 / (64 * 27)), rel=0.02)
    assert module.bias.abs().max() <= 1 / math.sqrt(32 * 9)
    before = copy.deepcopy(module.state_dict())
    module.reset_parameters()
    for name, parameter in module.named_parameters():
        assert ("rotation_params.1" in name) == torch.equal(parameter, before[name])


def test_one_by_one_is_a_plain_convolution_and_keeps_its_names() -> None:
    module = CrossDConv2d(4, 6, 1, stride=2)
    input = torch.randn(3, 4, 9, 9)
    expected = F.conv2d(input, module.weights_3d[:, :, 0], module.bias, 2)
    assert torch.equal(module(input), expected)
    module(input).sum().backward()
    assert module.weights_3d.grad is not None
    for parameter in module.rotation_params.parameters():  # as in the published layer, so that DDP misses nothing
        assert parameter.grad is not None and not parameter.grad.any()
    module.load_state_dict(PublishedLayer(4, 6, 1, 2, 0, 1).state_dict(), strict=True)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"groups": 3}, "in_channels: expected a multiple of 3 groups, got 4"),
        ({"groups": 4}, "out_channels: expected a multiple of 4 groups, got 6"),
        ({"groups": 0}, "groups: expected a positive int, got 0"),
        ({"in_channels": 0}, "in_channels: expected a positive int, got 0"),
        ({"kernel_size": 0}, "kernel_size: expected one int or two, each at least 1, got 0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size: expected one int or two, each at least 1, got \(3, 3, 3\)"),
        ({"kernel_size": 16}, r"kernel_size: expected sizes up to 15, got \(16, 16\)"),
        ({"stride": (1, 0)}, r"stride: expected one int or two, each at least 1, got \(1, 0\)"),
        ({"padding": -1}, "padding: expected one int or two, each at least 0, got -1"),
        ({"padding": "full"}, "padding: expected 'same', 'valid' or numbers, got 'full'"),
        ({"padding": "same", "stride": 2}, r"padding: expected 'same' with stride 1 only, got stride \(2, 2\)"),
        ({"padding_mode": "zero"}, "padding_mode: expected one of zeros, reflect, replicate, circular, got 'zero'"),
        ({"rotation": "none"}, "rotation: expected 'linear' or 'exact', got 'none'"),
        ({"dim": 3}, "dim: expected -3 to 2, got 3"),
        ({"depth": 0}, "depth: expected an int from 1 to 15, got 0"),
        ({"index": 3}, "index: expected -3 to 2, got 3"),
    ],
)
def test_wrong_arguments(wrong: dict, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        CrossDConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **wrong})


def test_wrong_input() -> None:
    module = CrossDConv2d(4, 6, 3)
    with pytest.raises(ValueError, match=r"^input: expected \(B, 4, H, W\), got \(2, 3, 8, 8\)$"):
        module(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"^input: expected \(B, 4, H, W\), got \(4, 8, 8\)$"):
        module(torch.zeros(4, 8, 8))


@pytest.mark.parametrize("training", [False, True])
def test_empty_batch(backend: str, training: bool) -> None:
    module = CrossDConv2d(4, 6, 3, stride=2, padding=1).train(training)
    before = copy.deepcopy(module.state_dict())
    output = module(torch.randn(0, 4, 9, 9))
    assert output.shape == (0, 6, 5, 5)
    output.sum().backward()
    assert torch.equal(module.weights_3d.grad, torch.zeros_like(module.weights_3d))
    for name, buffer in module.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before[name])


def test_channels_last(backend: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), CrossDConv2d(4, 6, 3, padding=1)).eval()
    input = torch.randn(3, 4, 9, 9)
    expected = model(input)
    parameter = model[1].weights_3d
    model.to(memory_format=torch.channels_last)
    assert model[1].weights_3d is parameter
    assert parameter.is_contiguous()
    assert model[1].rotation_params[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(input.to(memory_format=torch.channels_last)), expected)
    model(input.to(memory_format=torch.channels_last)).sum().backward()
    model.to(torch.float64, memory_format=torch.channels_last)
    assert parameter.dtype is torch.float64
    torch.testing.assert_close(model(input.double()).float(), expected)
    with pytest.raises(RuntimeError):
        model.to(memory_format=torch.channels_last_3d)


def test_half_module(backend: str) -> None:
    module = CrossDConv2d(4, 6, 3, padding=1).eval()
    input = torch.randn(3, 4, 9, 9)
    expected = module(input)
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(module).to(dtype)
        output = half(input.to(dtype))
        assert output.dtype is dtype
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
        output.sum().backward()
        assert half.weights_3d.grad.dtype is dtype


def test_autocast_predicts_the_rotation_in_float32(backend: str) -> None:
    module = CrossDConv2d(4, 6, 3, padding=1)
    input = torch.randn(3, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        axis, angle = module.predict_rotation(input)
        output = module(input)
    assert (axis.dtype, angle.dtype, output.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(axis.norm(dim=1), torch.ones(3))
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_one_bad_sample_does_not_spoil_the_others(backend: str) -> None:
    module = CrossDConv2d(4, 6, 3).eval()
    input = torch.randn(3, 4, 9, 9)
    expected = module(input)
    input[1, 0, 0, 0] = float("nan")
    output = module(input)
    assert output[1].isnan().all()
    torch.testing.assert_close(output[[0, 2]], expected[[0, 2]])


def test_repr_and_copy() -> None:
    text = repr(CrossDConv2d(4, 6, (3, 5), 2, 1, groups=2, bias=False, rotation="exact", dim=1, index=0))
    for part in ("4, 6, kernel_size=(3, 5), stride=(2, 2), padding=(1, 1)", "groups=2", "bias=False", "rotation=exact"):
        assert part in text
    assert "dim=1, index=0" in text
    assert "dilation" not in text
    module = CrossDConv2d(4, 6, 3).eval()
    input = torch.randn(2, 4, 8, 8)
    assert torch.equal(copy.deepcopy(module)(input), module(input))


def test_functional_call_and_vmap_over_an_ensemble() -> None:
    modules = [CrossDConv2d(3, 4, 3).eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(modules)
    input = torch.randn(2, 3, 7, 7)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(modules[0], (parameters, buffers), (input,))

    got = torch.vmap(call)(parameters, buffers)
    torch.testing.assert_close(got, torch.stack([module(input) for module in modules]))
