"""The way of GPUs, tried on the CPU (CROSSD_CONVOLUTION_BRANCH=gpu): what it calls, and batches in several chunks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("compiled_library")

# Prints, for each case, how often each operator of torch is called by ours, forward and backward. What that one does
# in turn is the CPU's.
COUNTING = """
import json, sys
from collections import Counter
import torch
from torch.profiler import profile
from crossd_ops import crossd_conv2d, crossd_conv3d
from crossd_ops.tuning import choice

def is_called_by_ours(event):
    return event.cpu_parent is not None and event.cpu_parent.name.startswith("crossd_ops::convolution")

def counts(samples, channels, sizes, kernel, groups, channels_last, method=None):
    input = torch.randn(samples, channels, *sizes)
    if channels_last:
        input = input.contiguous(memory_format=torch.channels_last if len(sizes) == 2 else torch.channels_last_3d)
    given = [input, torch.randn(8, channels // groups, *(kernel,) * 3), torch.randn(samples, 3)]
    given = [tensor.requires_grad_() for tensor in given]
    for way in (False, True) if method else ():
        found = choice.explain(*given, (1, kernel // 2, 1, groups), backward=way, on_gpu=True)
        choice.set_method(found.key, method)
    with profile() as forward:
        output = (crossd_conv2d if len(sizes) == 2 else crossd_conv3d)(*given, None, 1, kernel // 2, 1, groups)
    grad = torch.randn_like(output)
    with profile() as backward:
        torch.autograd.grad(output, given, grad)
    return [Counter(event.name for event in one.events() if is_called_by_ours(event)) for one in (forward, backward)]

torch.backends.cudnn.allow_tf32 = False  # or images of channels-last would go to tiles
torch.ops.crossd_ops.allow_tf32(False, False)
for case in json.loads(sys.argv[1]):
    print(json.dumps([counts(samples, *case) for samples in (2, 5)]))
"""
# Channels, sizes, kernel, groups, channels-last; the method, where so small a problem would take another.
CASES: dict[str, tuple[Any, ...]] = {
    "stem": (3, (32, 30), 7, 1, False),
    "stem, channels-last": (3, (32, 30), 7, 1, True),
    "few pixels": (24, (7, 7), 3, 1, False),
    "few pixels, channels-last": (24, (7, 7), 3, 1, True),
    "layer": (24, (28, 28), 3, 1, False),
    "layer, channels-last": (24, (28, 28), 3, 1, True),
    "1x1": (24, (28, 28), 1, 1, False),
    "1x1, channels-last": (24, (28, 28), 1, 1, True),
    "groups": (24, (28, 28), 3, 2, False),
    "depthwise": (8, (28, 28), 3, 8, True),
    "volume": (4, (9, 8, 7), 3, 1, False),
    "volume, channels-last": (16, (7, 8, 7), 3, 1, True),
    "volume, few pixels": (16, (1, 2, 3), 3, 1, True, "shared"),
}
OF_THE_WEIGHT = ("volume, channels-last", "volume, few pixels")  # as it is: forward, and the second one backward too
# Nothing is copied for its layout, and no bigger tensor made, in what goes by columns.
BY_COLUMNS = [name for name in CASES if name not in ("depthwise", *OF_THE_WEIGHT)]
COPIES = ("aten::contiguous", "aten::clone", "aten::copy_", "aten::cat", "aten::convolution")


def output_of(script: str, *arguments: str) -> str:
    environment = {**os.environ, "CROSSD_CONVOLUTION_BRANCH": "gpu"}
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def calls() -> dict[str, Any]:
    """By case: for 2 and for 5 samples, forward and backward, calls by name."""
    lines = output_of(COUNTING, json.dumps(list(CASES.values()))).splitlines()
    return dict(zip(CASES, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_called_once_for_each_sample(calls: dict[str, Any], case: str) -> None:
    few, many = calls[case]
    assert many == few


@pytest.mark.parametrize("case", BY_COLUMNS)
def test_a_layer_is_a_shift_and_a_product(calls: dict[str, Any], case: str) -> None:
    (forward, backward), _ = calls[case]
    assert forward["crossd_ops::fourier_shift"] == forward["aten::bmm"] == 1, forward
    assert backward["crossd_ops::fourier_shift"] == backward["crossd_ops::fourier_shift_backward"] == 1
    assert backward["aten::bmm"] == 2
    columns = None if case.startswith("1x1") else 1  # a pixel for each: the image itself
    assert forward.get("crossd_ops::image_to_columns") == backward.get("crossd_ops::image_to_columns") == columns
    assert backward.get("crossd_ops::columns_to_image") == columns
    assert {name for direction in (forward, backward) for name in direction if name in COPIES} == set()


def test_a_volume_takes_the_weight_as_it_is(calls: dict[str, Any]) -> None:
    """No kernel of a sample, nor its gradient; what is copied is the weight, and its gradient back."""
    (_, backward), _ = calls["volume, few pixels"]
    for case in OF_THE_WEIGHT:
        (forward, _), _ = calls[case]
        product = "aten::convolution"  # of float32, whose products are rounded as torch's own convolutions
        assert forward == {"aten::copy_": 1, "crossd_ops::image_to_shifted_columns": 1, product: 1}
    ours = ("shifted_columns_gradient", "seen_to_image", "image_to_shifted_columns")
    assert {name: backward[f"crossd_ops::{name}"] for name in ours} == dict.fromkeys(ours, 1)
    assert (backward["aten::convolution_backward"], backward["aten::copy_"], backward["aten::sum"]) == (1, 2, 1)
    assert "crossd_ops::fourier_shift" not in backward and sum(backward.values()) == 7


TILES = """
import torch
import torch.nn.functional as F
from torch.profiler import profile
from crossd_ops import crossd_conv2d, fourier_shift_slice, sample_conv2d
from crossd_ops.tuning import choice

def compare(dtype, kernel, channels, groups, with_bias, layout=torch.channels_last):
    torch.manual_seed(1)
    input = torch.randn(3, channels, 14, 11).to(dtype).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(32, channels // groups, *kernel).to(dtype).requires_grad_()
    shift, bias = torch.randn(3, 3).requires_grad_(), torch.randn(32).to(dtype) if with_bias else None
    numbers = 2, 2, 1, groups
    kernels = fourier_shift_slice(weight, shift, dim=1)
    for way in (False, True):  # so small a problem might take another method
        choice.set_method(choice.explain(input, kernels, None, numbers, backward=way, on_gpu=True).key, "tiles")
    with profile() as profiler:
        output = crossd_conv2d(input, weight, shift, bias, *numbers, dim=1)
    image = input.contiguous(memory_format=torch.channels_last)  # as tiles read it
    wanted = torch.cat([F.conv2d(image[b : b + 1], kernels[b], bias, *numbers) for b in range(3)])
    assert output.is_contiguous(memory_format=layout)
    torch.testing.assert_close(output, wanted, rtol=0, atol=0)
    given = sample_conv2d(input, kernels, bias, **dict(zip(("stride", "padding", "dilation", "groups"), numbers)))
    torch.testing.assert_close(given, wanted, rtol=0, atol=0)
    called = [event.name for event in profiler.events() if event.name.startswith("crossd_ops::")]
    assert called == [f"crossd_ops::{name}" for name in ("convolution", "fourier_shift", "convolve_tiles")], called
    grad = torch.randn_like(output)
    of_all = [input, weight, shift]
    with profile() as profiler:
        found = torch.autograd.grad(output, of_all, grad, retain_graph=True)
    called = [event.name for event in profiler.events() if event.name.startswith("crossd_ops::")]
    assert {"crossd_ops::tiles_input_gradient", "crossd_ops::tiles_kernels_gradient"} <= {*called}, called
    assert found[0].is_contiguous(memory_format=layout)
    for result, expected in zip(found, torch.autograd.grad(wanted, of_all, grad, retain_graph=True)):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    for one, result in zip(of_all, found):
        (alone,) = torch.autograd.grad(output, one, grad, retain_graph=True)
        torch.testing.assert_close(alone, result, rtol=0, atol=0)

compare(torch.bfloat16, (3, 3, 3), 16, 1, True)
compare(torch.bfloat16, (5, 5, 5), 32, 2, False)
compare(torch.float16, (7, 7, 7), 32, 1, True)
compare(torch.bfloat16, (4, 2, 4), 16, 2, False)
compare(torch.float32, (3, 3, 3), 12, 1, True)
compare(torch.bfloat16, (3, 3, 3), 16, 1, True, torch.contiguous_format)
compare(torch.float32, (3, 3, 3), 12, 1, False, torch.contiguous_format)
"""


def test_tiles_get_the_kernels_of_each_sample_tap_by_tap() -> None:
    """What is made of them where there are no tensor cores is what torch makes of the kernels as they mostly lie."""
    output_of(TILES)


CHUNKS = """
import torch
import torch.nn.functional as F
from crossd_ops import crossd_conv2d, fourier_shift_slice

def compare(samples, size, channels_last):
    torch.manual_seed(1)
    input = torch.randn(samples, 4, size, size).requires_grad_()
    if channels_last:
        input = input.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, shift = torch.randn(2, 4, 3, 3, 3).requires_grad_(), torch.randn(samples, 3).requires_grad_()
    bias = torch.randn(2).requires_grad_()
    given = [input, weight, shift, bias]
    output = crossd_conv2d(*given, 1, 1)
    kernels = fourier_shift_slice(weight, shift)
    wanted = torch.cat([F.conv2d(input[b : b + 1], kernels[b], bias, 1, 1) for b in range(samples)])
    torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(output) / size
    found, expected = (torch.autograd.grad(result, given, grad) for result in (output, wanted))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)

compare(4, 700, False)  # three samples, then one: 2^26 elements of columns at a time
compare(3, 1000, True)  # one at a time
"""


def test_chunks_of_samples_give_what_the_batch_gives() -> None:
    output_of(CHUNKS)
