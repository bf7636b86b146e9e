"""The way of a call through the package's files, as CONTRIBUTING.md tells it: downwards, and never back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import crossd_ops
from crossd_ops import crossd_conv2d, crossd_conv3d

PACKAGE = Path(crossd_ops.__file__).parent
WAY_OF_A_LAYER = [  # before the operators; those are of the head's file and the convolution's
    "layers/leaf.py",
    "layers/conv2d.py",
    "layers/straight.py",
    "functional.py",
    "operators/plain_head.py",
]
pytestmark = pytest.mark.usefixtures("compiled_library")


def way(call: Callable[[], object]) -> list[str]:
    """The files of the package whose functions are called, in order; a file that is called again from itself once."""
    files: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            name = str(path.relative_to(PACKAGE))
            if files[-1:] != [name]:
                files.append(name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


@pytest.mark.parametrize("with_grad", [False, True])
@pytest.mark.parametrize("numbers", [{}, {"stride": (2, 1), "padding": 1}, {"dim": 1, "index": 0}], ids=str)
def test_of_an_image(numbers: dict[str, Any], with_grad: bool) -> None:
    weight = torch.randn(4, 3, 3, 3, 3, requires_grad=with_grad)
    image, shift = torch.randn(2, 3, 8, 8), torch.randn(2, 3)
    assert way(lambda: crossd_conv2d(image, weight, shift, **numbers)) == ["functional.py", "operators/convolution.py"]


def test_of_a_volume() -> None:
    weight, volume, shift = torch.randn(4, 3, 3, 3, 3), torch.randn(2, 3, 5, 6, 7), torch.randn(2, 3)
    assert way(lambda: crossd_conv3d(volume, weight, shift)) == ["functional.py", "operators/convolution.py"]


def test_of_given_kernels() -> None:
    kernels, image = torch.randn(2, 4, 3, 3, 3, requires_grad=True), torch.randn(2, 3, 8, 8)
    assert way(lambda: crossd_ops.sample_conv2d(image, kernels, stride=(2, 1))) == [
        "functional.py",
        "operators/sample_convolution/call.py",
        "operators/convolution.py",  # the numbers, as operators take them
        "operators/sample_convolution/derivatives.py",
        "operators/backends.py",
    ]


def test_backward() -> None:
    weight = torch.randn(4, 3, 3, 3, 3, requires_grad=True)
    output = crossd_conv2d(torch.randn(2, 3, 8, 8), weight, torch.randn(2, 3)).sum()
    assert way(output.backward) == ["operators/convolution.py"]


@pytest.mark.parametrize("with_grad", [False, True])
def test_of_a_layer_with_its_head(with_grad: bool) -> None:
    layer, image = crossd_ops.CrossDConv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8)
    layer(image)  # whether these sizes fit is asked once
    with torch.set_grad_enabled(with_grad):
        files = way(lambda: layer(image))
    start = files.index("operators/layer.py")
    assert [file for file in files[:start] if file != "operators/backends.py"] == WAY_OF_A_LAYER
    assert {*files[start + 1 :]} <= {"operators/head.py", "operators/backends.py"}


def test_backward_of_a_layer() -> None:
    output = crossd_ops.CrossDConv2d(4, 6, 3, padding=1)(torch.randn(2, 4, 8, 8)).sum()
    files = way(output.backward)
    assert files[:3] == ["operators/layer.py", "operators/convolution.py", "operators/head.py"]
    assert files[3:] in ([], ["operators/backends.py"])
