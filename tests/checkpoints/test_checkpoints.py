"""Published checkpoints, made from the published names: every layout loads strictly, and is saved as it was."""

from __future__ import annotations

import argparse
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossd_ops
from benchmarks.models import build_model
from crossd_ops.checkpoints.published import load_published, save_published, with_early_heads
from crossd_ops.layers.early import CrossDConv2dEarly

State = dict[str, Tensor]


def plain_pointwise(in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
    """What `to_crossd` makes by default: convolutions of kernel size 1 stay plain."""
    kind = nn.Conv2d if kernel_size == 1 else crossd_ops.CrossDConv2d
    return kind(in_channels, out_channels, kernel_size, **options)


def resnet(conv: Callable[..., nn.Module] = crossd_ops.CrossDConv2d) -> nn.Module:
    return build_model("resnet18", conv, classes=7, width=2)


def drawn(state: State) -> State:
    """Other values of the same shapes: what loads them by accident is not a fresh model."""
    return {
        name: value.new_full((), 90) if value.dtype is torch.long else torch.rand_like(value) + 0.1
        for name, value in state.items()
    }


def present_layout() -> State:
    return drawn(resnet().state_dict())


def early_layout() -> State:
    """Complex weights that are no transform of real ones, and the early heads."""
    state = {}
    for name, value in drawn(resnet(CrossDConv2dEarly).state_dict()).items():
        if name.endswith("weights_3d"):
            state[name.replace("weights_3d", "weights_fft")] = torch.randn(value.shape, dtype=torch.complex64)
        else:
            state[name] = value
    return state


def test_names_are_the_published_ones() -> None:
    state = build_model("resnet18", crossd_ops.CrossDConv2d, classes=165).state_dict()
    sizes = {name: tuple(value.shape) for name, value in state.items()}
    assert sizes["conv1.weights_3d"] == (64, 3, 7, 7, 7)
    assert sizes["layer2.0.downsample.0.weights_3d"] == (128, 64, 1, 1, 1)
    assert sizes["layer4.1.conv2.rotation_params.0.weight"] == (16, 512, 1, 1)
    assert sizes["layer4.1.conv2.rotation_params.1.running_var"] == (16,)
    assert sizes["layer4.1.conv2.rotation_params.3.bias"] == (4,)
    assert sizes["layer4.1.bn2.weight"] == (512,) and sizes["fc.weight"] == (165, 512)
    assert not [name for name in state if name.endswith("conv1.bias")]


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in DDP"])
@pytest.mark.parametrize("on_top", [False, True], ids=["state", "model key"])
def test_present_layout(on_top: bool, wrapped: bool, tmp_path: Path) -> None:
    state = present_layout()
    stored: dict[str, Any] = {f"module.{name}": value for name, value in state.items()} if wrapped else dict(state)
    if on_top:
        # What training scripts save beside it.
        stored = {"model": stored, "epoch": 89, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-3)}
    torch.save(stored, tmp_path / "model.pth")
    model = resnet()
    report = load_published(model, tmp_path / "model.pth")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert report.layout == "present" and report.matched == tuple(model.state_dict())
    assert not report.converted and not report.kept
    assert set(report.dropped) == ({"epoch", "optimizer", "args"} if on_top else set())
    assert f"{len(state)} entries matched" in str(report)


def test_plain_convolutions_of_kernel_size_one_take_the_weight() -> None:
    state, model, whole = present_layout(), resnet(plain_pointwise), resnet()
    report = load_published(model, state)
    load_published(whole, state)
    input = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.eval()(input), whole.eval()(input))
    shortcuts = [f"layer{number}.0.downsample.0" for number in (2, 3, 4)]
    assert set(report.converted) == {f"{name}.weight" for name in shortcuts}
    assert len(report.dropped) == 3 * 9 and all(name.rpartition(".rotation")[0] in shortcuts for name in report.dropped)
    assert not report.kept
    assert "3 converted (weights_3d of kernel size 1): layer2.0.downsample.0.weight" in str(report)


def early_layer(state: State, prefix: str, input: Tensor, **options: Any) -> Tensor:
    """The early published layer in evaluation: shift by cos(angle) (1, 1, 1) of a complex weight, real part, middle."""
    weight = state[prefix + "weights_fft"].to(torch.complex128)
    map = F.conv2d(input, state[prefix + "rotation_params.0.weight"], state[prefix + "rotation_params.0.bias"])
    norm = [state[f"{prefix}rotation_params.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    angle = torch.tanh(F.batch_norm(map, *norm).mean((2, 3)).sum(1)) * torch.pi / 4
    frequency = torch.fft.fftfreq(weight.shape[-1], dtype=torch.float64)
    total = frequency[:, None, None] + frequency[:, None] + frequency
    results = []
    for sample, cosine in zip(input, angle.cos(), strict=True):
        moved = torch.fft.ifftn(weight * torch.exp(-2j * torch.pi * cosine * total), dim=(-3, -2, -1)).real
        results.append(F.conv2d(sample[None], moved[:, :, weight.shape[2] // 2].float(), **options))
    return torch.cat(results)


def test_early_layout_into_early_heads() -> None:
    state, model = early_layout(), with_early_heads(resnet()).eval()
    report = load_published(model, {"model": {f"module.{name}": value for name, value in state.items()}})
    assert report.layout == "early" and not report.dropped and not report.kept
    assert len(report.converted) == 20
    input = torch.randn(3, 3, 18, 15)
    stem = early_layer(state, "conv1.", input, stride=2, padding=3)
    torch.testing.assert_close(model.conv1(input), stem, rtol=1e-4, atol=1e-4)
    assert model.conv1.predict_shift(input)[:, 0].std() > 1e-4
    features = torch.randn(2, 2, 9, 8)
    expected = early_layer(state, "layer2.0.conv1.", features, stride=2, padding=1)
    torch.testing.assert_close(model.layer2[0].conv1(features), expected, rtol=1e-4, atol=1e-4)
    expected = early_layer(state, "layer2.0.downsample.0.", features, stride=2)
    torch.testing.assert_close(model.layer2[0].downsample[0](features), expected, rtol=1e-4, atol=1e-4)


def test_early_layout_into_present_heads() -> None:
    state, model, early = early_layout(), resnet(plain_pointwise), with_early_heads(resnet())
    before = copy.deepcopy(model.state_dict())
    report = load_published(model, state)
    load_published(early, state)
    assert torch.equal(model.conv1.weights_3d, early.conv1.weights_3d)
    assert torch.equal(model.layer2[0].downsample[0].weight, early.layer2[0].downsample[0].weights_3d[:, :, 0])
    heads = [name for name in before if "rotation_params" in name]
    assert set(report.kept) == set(heads) and all(torch.equal(before[name], model.state_dict()[name]) for name in heads)
    assert set(report.dropped) == {name for name in state if "rotation_params" in name}
    text = str(report)
    assert "with_early_heads" in text and "conv1.rotation_params.0.weight" in text and "without effect" in text


def test_early_layer_of_even_size() -> None:
    layer, real = crossd_ops.CrossDConv2d(2, 3, 4, bias=False), torch.randn(3, 2, 4, 4, 4)
    load_published(nn.Sequential(layer), {"0.weights_fft": torch.fft.fftn(real, dim=(-3, -2, -1))})
    torch.testing.assert_close(layer.weights_3d.detach(), real)
    with pytest.raises(ValueError, match=r"0\.weights_fft: expected odd kernel sizes or a real weight"):
        load_published(nn.Sequential(layer), {"0.weights_fft": torch.randn(3, 2, 4, 4, 4, dtype=torch.complex64)})


def test_early_layer_trains_and_bakes() -> None:
    layer = CrossDConv2dEarly(2, 4, 3, padding=1)
    layer(torch.randn(3, 2, 6, 6)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert layer.rotation_params[0].weight.grad.abs().max() > 0
    with pytest.raises(TypeError, match="no axis"):
        layer.predict_rotation(torch.randn(3, 2, 6, 6))
    fixed = copy.deepcopy(layer)
    fixed.fix_shift(torch.tensor([0.9, 0.9, 0.9]))
    assert not torch.equal(fixed(torch.ones(1, 2, 6, 6)), layer(torch.ones(1, 2, 6, 6)))


def test_early_heads_keep_the_rest_of_a_network() -> None:
    model = resnet().eval()
    model.layer1.requires_grad_(False)
    early = with_early_heads(model)
    assert type(model.conv1) is crossd_ops.CrossDConv2d and type(early.conv1) is CrossDConv2dEarly
    assert torch.equal(early.conv1.weights_3d, model.conv1.weights_3d) and early.conv1.stride == (2, 2)
    assert not early.layer1[0].conv1.weights_3d.requires_grad and not early.conv1.training
    with pytest.raises(ValueError, match="expected CrossDConv2d layers"):
        with_early_heads(nn.Linear(2, 2))


def test_biases_become_zero() -> None:
    published, model = crossd_ops.CrossDConv2d(2, 3, 3, bias=False), crossd_ops.CrossDConv2d(2, 3, 3, bias=True)
    report = load_published(model, published.state_dict())
    assert not model.bias.count_nonzero()
    assert report.converted == {"bias": "set to 0: the published layer has no bias"}


@pytest.mark.parametrize("conv", [crossd_ops.CrossDConv2d, plain_pointwise])
def test_round_trip(conv: Callable[..., nn.Module], tmp_path: Path) -> None:
    model, again = resnet(conv), resnet(conv)
    for name, value in drawn(model.state_dict()).items():
        model.state_dict()[name].copy_(value)
    save_published(nn.DataParallel(model), tmp_path / "model.pth")
    stored = torch.load(tmp_path / "model.pth", weights_only=True)
    assert set(stored) == {"model"} and set(stored["model"]) == set(resnet().state_dict())
    load_published(again, tmp_path / "model.pth")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in again.state_dict().items())
    resnet().load_state_dict(stored["model"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_a_loaded_checkpoint_is_saved_bit_for_bit(tmp_path: Path) -> None:
    state, model = present_layout(), resnet()
    load_published(model, state)
    save_published(model, tmp_path / "model.pth")
    stored = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert list(stored) == list(state) and all(torch.equal(stored[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (crossd_ops.CrossDConv2d(2, 2, 3), "bias that is not 0"),
        (crossd_ops.CrossDConv2d(2, 2, 3, bias=False, dilation=2), r"dilation \(2, 2\), which the published"),
        (crossd_ops.CrossDConv2d(2, 2, 3, bias=False, padding_mode="reflect"), "padding_mode reflect"),
        (crossd_ops.CrossDConv2d(2, 2, 3, bias=False, rotation="exact"), "rotation exact instead of linear"),
        (crossd_ops.CrossDConv2d(2, 2, 3, bias=False, dim=1), "dim 1"),
        (crossd_ops.CrossDConv2d(2, 2, 3, bias=False, index=0), "index 0"),
        (crossd_ops.CrossDConv2d(2, 2, (3, 5), bias=False), r"sizes of weights_3d \(5, 3, 5\)"),
        (crossd_ops.CrossDConv2d(2, 2, 3, bias=False, rotation_channels=8), "head 8 instead of 16"),
        (CrossDConv2dEarly(2, 2, 3, bias=False), "a CrossDConv2dEarly"),
        (nn.Conv2d(2, 2, 3, bias=False), r"plain convolution of kernel size \(3, 3\)"),
        (nn.Conv2d(2, 2, 1), "bias that is not 0"),
    ],
)
def test_what_the_published_layer_is_not_is_refused(layer: nn.Module, reason: str, tmp_path: Path) -> None:
    model = nn.Sequential(crossd_ops.CrossDConv2d(2, 2, 3, bias=False), layer)
    with pytest.raises(ValueError, match=f"1: .*{reason}"):
        save_published(model, tmp_path / "model.pth")
    assert not [*tmp_path.iterdir()]


def test_a_fixed_shift_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(crossd_ops.CrossDConv2d(2, 2, 3, bias=False))
    model[0].fix_shift(torch.ones(3))
    with pytest.raises(ValueError, match="0: fixed_shift"):
        save_published(model, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="expected CrossDConv2d layers"):
        save_published(nn.Linear(2, 2), tmp_path / "model.pth")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_malicious_file_is_refused_and_nothing_of_it_runs(save: Callable[..., None], tmp_path: Path) -> None:
    save({"model": present_layout() | {"evil": Malicious(tmp_path / "ran")}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: expected tensors and plain values alone.*nothing of it was run"):
        load_published(resnet(), tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_published(resnet(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pth: expected a checkpoint, got a file that is truncated"):
            load_published(resnet(), path)
    with pytest.raises(FileNotFoundError):
        load_published(resnet(), tmp_path / "none.pth")


def test_entries_that_do_not_fit_are_named_and_nothing_is_loaded() -> None:
    model, state = resnet(), present_layout()
    before = copy.deepcopy(model.state_dict())
    state["layer9.conv1.weights_3d"] = state.pop("layer1.0.conv1.weights_3d")
    state["fc.bias"] = torch.zeros(3)
    del state["bn1.running_mean"]
    with pytest.raises(ValueError) as raised:
        load_published(model, state)
    text = str(raised.value)
    assert "missing: bn1.running_mean, layer1.0.conv1.weights_3d" in text
    assert "not in the model: layer9.conv1.weights_3d" in text
    assert "of another size: fc.bias (3,) instead of (7,)" in text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_other_contents_are_refused(tmp_path: Path) -> None:
    model = resnet()
    with pytest.raises(ValueError, match=r"expected entries weights_3d or weights_fft, .*conv1\.weight"):
        load_published(model, resnet(nn.Conv2d).state_dict())
    with pytest.raises(ValueError, match=r"names and tensors.*got other things under epoch"):
        load_published(model, {"epoch": 3})
    torch.save([torch.zeros(2)], tmp_path / "model.pth")
    with pytest.raises(ValueError, match="expected a dictionary, got list"):
        load_published(model, tmp_path / "model.pth")
    with pytest.raises(TypeError, match="expected a path or a dictionary, got int"):
        load_published(model, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        load_published("model", {})  # type: ignore[arg-type]
