"""python -m crossd_ops profile: the rows of a network, with and without a run, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import model_zoo
import pytest
import torch
from torch import Tensor, nn

import crossd_ops
from crossd_ops.__main__ import main
from crossd_ops.inspection.profile import measurement
from crossd_ops.inspection.profile.problems import Problem, problems_of
from crossd_ops.operators import convolution
from crossd_ops.tuning import choice, saved

pytestmark = pytest.mark.usefixtures("compiled_library")


class Network(nn.Module):
    """Two convolutions of one kind, one of another, one that is plain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = crossd_ops.CrossDConv2d(3, 16, 3, padding=1)
        self.second = crossd_ops.CrossDConv2d(16, 16, 3, padding="same")
        self.third = crossd_ops.CrossDConv2d(16, 16, 3, padding=1)
        self.strided = crossd_ops.CrossDConv2d(16, 8, (1, 4), 2, padding=1, padding_mode="reflect", groups=2, dim=1)
        self.pointwise = crossd_ops.CrossDConv2d(8, 8, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.pointwise(self.strided(self.third(self.second(self.first(input)))))


class Asking(Network):
    """Asks a tensor for its value, which the meta device cannot tell."""

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return output if output.sum() > 0 else -output


def not_a_network() -> int:
    return 3


def profiled(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["profile", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", [Network, Asking])
def test_problems_are_those_that_the_operator_gets(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model = kind().eval()
    found = problems_of(model, (2, 3, 12, 12), torch.float32, channels_last=False)
    assert [*found.values()] == [["first"], ["second", "third"], ["strided"]]
    called = []

    def record(input: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None, place: tuple[int, ...]) -> Tensor:
        of_layer = input.shape, weight.shape, convolution.parts_of(place, weight.shape[2:], 2)
        called.append(of_layer)
        return torch.ops.crossd_ops.convolution(input, weight, shift, bias, place)

    monkeypatch.setattr(convolution, "eager_forward", record)
    with torch.no_grad():
        model(torch.randn(2, 3, 12, 12))
    expected = [
        (
            torch.Size(problem.input),
            torch.Size(problem.weight),
            convolution.parts_of(problem.place, problem.weight[2:], 2),
        )
        for problem, names in found.items()
        for _ in names
    ]
    assert called == expected


def test_volumes() -> None:
    model = nn.Sequential(crossd_ops.CrossDConv3d(2, 4, (3, 5, 3), dim=1, padding=(2, 1, 1)))
    (problem,) = problems_of(model, (2, 2, 8, 9, 10), torch.float32, channels_last=False)
    assert problem == Problem(
        (2, 2, 8, 9, 10), (4, 2, *problem.kernel), (1, 1, 1, 2, 1, 1, 1, 1, 1, 1), torch.float32, False
    )
    assert problem.kernel == model[0].kernel_size


def test_table_of_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    text = profiled(capsys, "test_profile:Network", "--size", "12", "--batch", "2", "--turns", "1")
    lines = text.splitlines()
    assert "batch 2, float32; ms" in lines[0]
    assert len(lines) == 2 + 6 + 1 and lines[-1].startswith("All layers, forward and backward: plain ")
    assert lines[4].startswith("second and 1 more  16->16 3x3 @") and "forward" in lines[4]
    assert all(line.count("*") == 1 for line in lines[2:-1])


def test_values_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot, kept = tmp_path / "plot.png", tmp_path / "tuning.json"
    arguments = ("--layer", "4,6,3,2", "--size", "9,11", "--batch", "2", "--turns", "1", "--dtype", "float64")
    found = json.loads(profiled(capsys, *arguments, "--json", "--plot", str(plot), "--save", str(kept)))
    forward, backward = found["rows"]
    assert (forward["direction"], backward["direction"]) == ("forward", "backward")
    assert forward["input"] == [2, 4, 9, 11] and forward["dtype"] == "float64" and not found["dry_run"]
    assert {*forward["seconds"]} == {"plain", "grouped", "loop", "matrix", "small", "shared"}
    assert {*backward["seconds"]} == {"plain", "grouped", "loop", "matrix", "shared"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    problems = saved.load(kept)
    assert [problem.method for problem in problems] == [forward["quickest"], backward["quickest"]]
    tensors = torch.ones(2, 4, 9, 11).double(), torch.ones(6, 4, 3, 3, 3).double(), torch.ones(2, 3)
    after = choice.explain(*tensors, (2, 1, 1, 1), backward=False)
    assert tuple(problems[0].key) == after.key and after.why != "measured"  # nothing stays set


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dry_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, device: str, tmp_path: Path
) -> None:
    def no_run(*_: object) -> None:
        raise AssertionError("something ran")

    pytest.importorskip("matplotlib")
    monkeypatch.setattr("crossd_ops.tuning.clock.seconds_of", no_run)
    plot = tmp_path / "plot.png"
    arguments = ("--layer", "64,64,3", "--size", "56", "--batch", "32", "--dtype", "bfloat16", "--channels-last")
    text = profiled(capsys, *arguments, "--dry-run", "--device", device, "--plot", str(plot))
    assert "by counting, nothing was run" in text and plot.exists()
    if device == "cuda":
        assert "*~" in text and "All layers" in text and "fewest seconds" in text
    else:
        assert " MB" in text and "ms" not in text and "All layers" not in text


def test_networks_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    model_zoo.library("torchvision")
    images = profiled(capsys, "resnet18", "--size", "64", "--dry-run", "--device", "cuda")
    assert "layer1.0.conv1 and 3 more" in images and "512->512 3x3 @2x2" in images
    volumes = profiled(capsys, "resnet18", "--size", "8,32,32", "--dry-run", "--device", "cuda")
    assert "3->64 7x7x7 @8x32x32 s2" in volumes
    model_zoo.library("timm")
    assert "convmixer" not in images
    assert "7x7" in profiled(capsys, "convnext_atto", "--size", "64", "--dry-run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a network or --layer, got neither"),
        (("resnet18", "--layer", "3,3,3"), "expected a network or --layer, got both"),
        (("--layer", "3,x,3"), "--layer: expected IN,OUT,KERNEL"),
        (("--layer", "3,3"), "--layer: expected IN,OUT,KERNEL"),
        (("--layer", "3,3,1"), "expected Cross-D convolutions with kernels larger than 1x1"),
        (("--layer", "3,3,3", "--size", "0"), "--size: expected H, H,W or D,H,W, got '0'"),
        (("--layer", "3,3,3", "--size", "1,2,3,4"), "--size: expected H"),
        (("--layer", "3,3,3", "--batch", "0"), "expected at least 1, got 0, 5, 3"),
        (("--layer", "3,3,3", "--save", "a", "--dry-run"), "--save: expected a run"),
        (("--layer", "3,3,3", "--save", "/none/a"), "/none/a: expected a folder that exists"),
        (("no.such.module:function",), "network: expected package.module:function"),
        (("no_such_network",), "network: expected a name of torchvision or timm"),
        (("test_profile:not_a_network",), "network: expected a module from test_profile:not_a_network(), got int"),
    ],
)
def test_refusals(
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(SystemExit) as caught:
        main(["profile", *arguments])
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("channels", [3, 4])
def test_images_have_no_gradient(channels: int) -> None:
    """Of a first layer's backward pass one product is counted, and that is what is measured."""
    place = (1, 1, 1, 1, 1, 1, 1, 0, 1)
    problem = Problem((2, channels, 9, 8), (6, channels, 3, 3, 3), place, torch.float32, channels_last=False)
    forward, backward = (row.choice.costs["matrix"] for row in measurement.counted(problem, [], on_gpu=False))
    assert backward.multiply_adds == forward.multiply_adds * (1 if channels == 3 else 2)
    found = measurement.calls_of(problem, torch.device("cpu"))["backward"].ours()
    assert isinstance(found, tuple) and (found[0].numel() == 0) is (channels == 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["profile", "--layer", "3,3,3", "--device", "cuda"])
    assert "--device cuda: expected a GPU, got none" in capsys.readouterr().err


def test_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["profile", "--layer", "3,3,3", "--plot", "a.png"])
    assert "--plot: expected matplotlib (pip install matplotlib)" in capsys.readouterr().err
