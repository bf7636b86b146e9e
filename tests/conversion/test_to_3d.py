"""to_3d: each recipe against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from volumes import constant

from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv3d, reference, to_3d
from crossd_ops.conversion import calibrate

LAYERS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 4, "padding": 1, "bias": False, "rotation": "exact"},
    {"kernel_size": (1, 5), "padding": (0, 2), "stride": (1, 2)},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "dim": 1, "groups": 2, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": "same", "dim": 2, "index": 0},
    {"kernel_size": (2, 3), "depth": 5, "dim": 1, "index": 4},
]


def network(arguments: dict) -> nn.Sequential:
    """One Cross-D layer with angles that differ, and a plain one."""
    layer = CrossDConv2d(4, 6, **arguments, dtype=torch.float64)
    nn.init.normal_(layer.rotation_params[3].weight)
    plain = nn.Conv2d(6, 6, 3, padding=1, groups=6, dtype=torch.float64)
    return nn.Sequential(layer, nn.BatchNorm2d(6, dtype=torch.float64), plain).eval()


def depth_first(layer: CrossDConv2d, weight: Tensor) -> Tensor:
    """(..., Kd, Kh, Kw) with the sliced axis in front and the slice in use at depth // 2."""
    weight = weight.movedim(layer.dim - 3, -3)
    taken = (torch.arange(layer.depth) + layer.index - layer.depth // 2) % layer.depth
    return weight[..., taken, :, :]


@pytest.fixture
def batches() -> list[Tensor]:
    return [torch.randn(2, 4, 7, 7, dtype=torch.float64) for _ in range(2)]


def shifts_of(layer: CrossDConv2d, batches: list[Tensor]) -> Tensor:
    return torch.cat([layer.predict_shift(batch) for batch in batches]).detach().float().double()


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_recipes_of_crossd_layers(arguments: dict, batches: list[Tensor]) -> None:
    model = network(arguments)
    layer, volume = model[0], torch.randn(2, 4, 9, 8, 8, dtype=torch.float64)
    shifts = shifts_of(layer, batches)
    weight = layer.weights_3d.detach()

    published = to_3d(model, example=batches[0])
    assert torch.equal(published[0].weight, depth_first(layer, weight))
    shifted = to_3d(model, "shifted", batches=batches, progress=False, example=batches[0])
    moved = reference.fourier_shift(weight, shifts.mean(0, keepdim=True))[0]
    torch.testing.assert_close(shifted[0].weight, depth_first(layer, moved), rtol=0, atol=1e-6)
    mean = reference.fourier_shift_slice(weight, shifts, dim=layer.dim, index=layer.index).mean(0)
    sliced = to_3d(model, "slice-i3d", batches=batches, progress=False, example=batches[0])
    for number in range(layer.depth):
        torch.testing.assert_close(sliced[0].weight[:, :, number], mean / layer.depth)
    assert [type(twin[0]) for twin in (published, shifted, sliced)] == [nn.Conv3d] * 3
    for twin in (published, shifted, sliced):
        torch.testing.assert_close(twin[2].weight.sum(2), model[2].weight)
        assert twin(volume).shape[1] == 6
    if len({*layer.kernel_size}) == 1:
        acs = to_3d(model, "slice-acs", batches=batches, progress=False, example=batches[0])
        assert type(acs[0]) is ACSConv3d and type(acs[2]) is ACSConv3d
        torch.testing.assert_close(acs[0].weight, mean)
        assert torch.equal(acs[2].weight, model[2].weight)
        acs(volume)


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_crossd_keeps_the_head_and_sees_a_slice_as_the_2d_network_does(arguments: dict) -> None:
    layer = network(arguments)[0]
    input = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    twin = to_3d(layer, "crossd", example=input)
    assert type(twin) is CrossDConv3d and twin.training is False
    torch.testing.assert_close(twin.predict_shift(input.unsqueeze(2)), layer.predict_shift(input))
    # A volume that is 0 around one slice: at the output slice beside it stands the 2D output.
    twin.padding_mode = "zeros"
    layer.padding_mode = "zeros"
    volume = F.pad(input.unsqueeze(2), (0, 0, 0, 0, 8, 8))
    twin.fix_shift(torch.tensor([0.3, -0.8, 1.2]))
    layer.fix_shift(torch.tensor([0.3, -0.8, 1.2]))
    expected = layer(input) - (0 if layer.bias is None else layer.bias.view(-1, 1, 1))
    kernel = twin.weights_3d.new_zeros(twin.kernel_size[0]).index_fill(0, torch.tensor(twin.kernel_size[0] // 2), 1)
    delta = F.conv3d(
        F.pad(torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), (0, 0, 0, 0, 8, 8)),
        kernel.view(1, 1, -1, 1, 1),
        None,
        (twin.stride[0], 1, 1),
        "same" if twin.padding == "same" else (twin.padding[0], 0, 0),
        (twin.dilation[0], 1, 1),
    )
    (place,) = delta.flatten().nonzero().flatten().tolist()
    output = twin(volume) - (0 if twin.bias is None else twin.bias.view(-1, 1, 1, 1))
    torch.testing.assert_close(output[:, :, place], expected)


def test_fixed_shifts_are_carried_and_calibrated(batches: list[Tensor]) -> None:
    model = network(LAYERS[0])
    model[0].fix_shift(torch.tensor([0.25, 1.0, 0.5]))
    moved = reference.fourier_shift(model[0].weights_3d, model[0].fixed_shift[None])[0]
    shifted = to_3d(model, "shifted", batches=batches, progress=False, example=batches[0])
    torch.testing.assert_close(shifted[0].weight, moved)
    assert torch.equal(to_3d(model, "crossd", example=batches[0])[0].fixed_shift, model[0].fixed_shift)


def test_calibration_from_batches_of_any_kind_or_what_calibrate_returned(batches: list[Tensor]) -> None:
    model = network(LAYERS[0])
    options = {"progress": False, "example": batches[0][:1]}
    expected = to_3d(model, "slice-i3d", batches=batches, **options)[0].weight
    kinds = (
        [(b, 0) for b in batches],
        [{"image": b} for b in batches],
        (b for b in batches),
        calibrate(model, batches),
    )
    for given in kinds:
        assert torch.equal(to_3d(model, "slice-i3d", batches=given, **options)[0].weight, expected)
    for recipe in ("shifted", "slice-i3d", "slice-acs"):
        with pytest.raises(ValueError, match=r"batches: expected batches to calibrate on.* for 0"):
            to_3d(model, recipe)
    with pytest.raises(ValueError, match="batches: expected shifts of the layers of model"):
        to_3d(model, "shifted", batches={"1": torch.ones(2, 3)})


@pytest.mark.parametrize("size, padding, dilation", [(3, 1, 1), (4, 2, 1), ((3, 1), (2, 0), 2)])
def test_recipes_of_plain_layers(size: int, padding: int, dilation: int) -> None:
    layer = nn.Conv2d(4, 6, size, padding=padding, dilation=dilation, groups=2)
    kernel = layer.kernel_size[0]
    image = torch.randn(1, 4, 9, 10)
    inflated, centered = to_3d(layer, "i3d", example=image), to_3d(layer, "center", example=image)
    for number in range(kernel):
        torch.testing.assert_close(inflated.weight[:, :, number], layer.weight / kernel)
        expected = layer.weight if number == kernel // 2 else torch.zeros_like(layer.weight)
        assert torch.equal(centered.weight[:, :, number], expected)
    assert inflated.padding == (layer.padding[0], *layer.padding) and torch.equal(inflated.bias, layer.bias)
    if size == 3:
        acs = to_3d(layer, "acs", example=image)
        assert type(acs) is ACSConv3d and torch.equal(acs.weight, layer.weight)


def test_one_by_one_is_one_by_one_by_one_with_every_recipe() -> None:
    plain, image = nn.Conv2d(4, 6, 1, stride=2), torch.randn(2, 4, 3, 3)
    for recipe in ("i3d", "center", "acs"):
        twin = to_3d(plain, recipe, example=image)
        assert type(twin) is nn.Conv3d and torch.equal(twin.weight[:, :, 0], plain.weight)
    crossd = CrossDConv2d(4, 6, 1)
    for recipe in ("published", "shifted", "slice-i3d", "slice-acs"):
        twin = to_3d(crossd, recipe, batches=[image], progress=False, example=image)
        assert type(twin) is nn.Conv3d and torch.equal(twin.weight, crossd.weights_3d)
    assert type(to_3d(crossd, "crossd", example=image)) is CrossDConv3d


def test_inflated_networks_give_the_2d_output_on_volumes_that_are_constant_along_the_depth() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, dilation=2, padding=2, groups=4, bias=False),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2, stride=1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 6, 2, padding_mode="circular", padding=1),
    ).double()
    model(torch.randn(4, 3, 32, 32, dtype=torch.float64))
    model.eval()
    # Zeros in front of and behind the volume are not constant with it.
    input = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    deep = to_3d(model, "i3d", depth={str(number): {"padding": 0} for number in (0, 3, 4, 7)}, example=input)
    output, expected = deep(constant(input, 44)), model(input)
    assert output.shape[2] > 2
    for number in range(output.shape[2]):
        torch.testing.assert_close(output[:, :, number], expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
        {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 5, "stride": 3, "dilation": 2, "padding": 2},
    ],
    ids=str,
)
def test_inflated_transposed_convolutions(arguments: dict) -> None:
    layer = nn.ConvTranspose2d(4, 6, **arguments, dtype=torch.float64)
    input = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    deep = to_3d(layer, "center", example=input)  # inflated with any recipe
    output, expected = deep(constant(input, 12)), layer(input)
    reach = layer.dilation[0] * layer.kernel_size[0]
    for number in range(reach, output.shape[2] - reach):
        torch.testing.assert_close(output[:, :, number], expected)


class OtherHead(CrossDConv2d):
    def predict_shift(self, input: Tensor) -> Tensor:
        return torch.zeros(len(input), 3)


def test_another_head_does_not_come_along() -> None:
    with pytest.raises(TypeError, match=r"model: expected the head of CrossDConv2d, .* got OtherHead"):
        to_3d(OtherHead(4, 4, 3), "crossd")


def test_wrong_recipes_and_models() -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3))
    with pytest.raises(
        ValueError, match="expected one of i3d, center, acs for 0, a plain convolution, got 'published'"
    ):
        to_3d(plain)
    with pytest.raises(ValueError, match="recipe: expected a pattern for 0, got 1"):
        to_3d(plain, {"1": "i3d"})
    with pytest.raises(ValueError, match=r"recipe: expected one of .*, got 'inflate'"):
        to_3d(network(LAYERS[0]), {"0": "published", "*": "inflate"})
    with pytest.raises(ValueError, match="model: expected 2D convolutions in it, got Linear with none"):
        to_3d(nn.Linear(3, 3))
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        to_3d("resnet18")
