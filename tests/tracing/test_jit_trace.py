"""torch.jit.trace: a trace computes what the layer does, for any batch and image, and loads without this package."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossd_ops
from crossd_ops import CrossDConv2d, CrossDConv2dEarly, CrossDConv3d, crossd_conv2d, crossd_conv3d

pytestmark = [
    pytest.mark.filterwarnings("error::torch.jit.TracerWarning"),  # what a trace would hold fast
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
KINDS = {"2d": (CrossDConv2d, (8, 8), (9, 11)), "3d": (CrossDConv3d, (6, 6, 6), (5, 7, 8))}
OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 2, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "bias": False},
    {"kernel_size": 3, "stride": 2, "rotation": "exact", "groups": 2},
    {"kernel_size": 1},
]


def saved_and_loaded(traced: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("fixed", [False, True], ids=["head", "fixed shift"])
@pytest.mark.parametrize("with_grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind: str, options: dict[str, Any], with_grad: bool, fixed: bool) -> None:
    make, sizes, others = KINDS[kind]
    layer = make(2, 4, **options).double().eval()
    if fixed:
        layer.fix_shift(torch.tensor([0.3, 1.2, -0.6]))
    with torch.set_grad_enabled(with_grad):
        traced = saved_and_loaded(torch.jit.trace(layer, torch.randn(2, 2, *sizes, dtype=torch.float64)))
        for samples in (1, 3):
            input = torch.randn(samples, 2, *others, dtype=torch.float64)
            torch.testing.assert_close(traced(input), layer(input), rtol=0, atol=1e-11)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients(training: bool) -> None:
    network = nn.Sequential(CrossDConv2d(1, 4, 3), nn.ReLU(), CrossDConv2d(4, 2, 3, groups=2)).double().train(training)
    images = torch.randn(2, 2, 1, 9, 8, dtype=torch.float64).unbind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own batch norm, in training mode
        traced = torch.jit.trace(network, images[0], check_trace=False)
    parameters = [*network.parameters()]
    expected = torch.autograd.grad(network(images[1]).square().sum(), parameters)
    found = torch.autograd.grad(traced(images[1]).square().sum(), parameters)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_an_early_layer() -> None:
    layer, image = CrossDConv2dEarly(1, 4, 3).eval(), torch.randn(2, 1, 8, 8)
    traced = saved_and_loaded(torch.jit.trace(layer, image))
    torch.testing.assert_close(traced(image[:1]), layer(image[:1]))


@pytest.mark.parametrize("axes", [2, 3])
def test_a_tensor_from_outside_is_refused_in_torchs_words(axes: int) -> None:
    weight, shift, image = torch.randn(4, 1, 3, 3, 3, requires_grad=True), torch.zeros(2, 3), torch.randn(2, 1, 8, 8, 8)
    convolve, image = (crossd_conv2d, image[..., 0]) if axes == 2 else (crossd_conv3d, image)
    with pytest.raises(RuntimeError, match="Cannot insert a Tensor that requires grad as a constant"):
        torch.jit.trace(lambda x: convolve(x, weight, shift), image)


@pytest.mark.parametrize("name, options", [("fourier_shift", {}), ("fourier_shift_slice", {"dim": 1, "index": -1})])
def test_functions(name: str, options: dict[str, int]) -> None:
    function = getattr(crossd_ops, name)
    weight, shifts = torch.randn(2, 3, 3, 4, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    traced = torch.jit.trace(lambda weight, shift: function(weight, shift, **options), (weight, shifts[:2]))
    torch.testing.assert_close(traced(weight, shifts), function(weight, shifts, **options), rtol=0, atol=1e-12)


def test_a_trace_runs_without_the_package(tmp_path: Path) -> None:
    layer, image = CrossDConv2d(1, 4, 3).eval(), torch.randn(2, 1, 8, 8)
    torch.jit.save(torch.jit.trace(layer, image), tmp_path / "layer.pt")
    torch.save({"image": image, "output": layer(image).detach()}, tmp_path / "expected.pt")
    code = (
        "import sys, torch\n"
        f"expected = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        f"output = torch.jit.load({str(tmp_path / 'layer.pt')!r})(expected['image'])\n"
        "torch.testing.assert_close(output, expected['output'])\n"
        "assert not any(name.startswith('crossd_ops') for name in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_bad_arguments_are_named() -> None:
    def convolve(image: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
        return crossd_conv2d(image, weight, shift)

    with pytest.raises(ValueError, match=r"^shift: expected \(2, 3\), got \(3, 3\)$"):
        torch.jit.trace(convolve, (torch.zeros(2, 1, 8, 8), torch.zeros(4, 1, 3, 3, 3), torch.zeros(3, 3)))
