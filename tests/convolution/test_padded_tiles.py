"""Channels that are no whole vectors, padded for a GPU's tiles: tried on the CPU, which convolves what is padded."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from test_gpu_branch import output_of

pytestmark = pytest.mark.usefixtures("compiled_library")

# Values of given kernels are wholes, so that every order of sums, in every type, gives the same.
COMPARING = """
import json, sys
import torch
import torch.nn.functional as F
from crossd_ops import crossd_conv2d, fourier_shift_slice, sample_conv2d
from crossd_ops.tuning import choice

def force(tensors, place):
    for way in (False, True):
        key = choice.explain(*tensors, place, backward=way, on_gpu=True).key
        choice.set_method(key, "tiles")
        assert choice.explain(*tensors, place, backward=way, on_gpu=True).method == "tiles"

def convolved(input, kernels, bias, numbers):
    return torch.cat([F.conv2d(input[b : b + 1], kernels[b], bias, *numbers) for b in range(len(input))])

def compare(dtype, channels, out_channels, sizes, kernel, place, layout):
    dtype, layout = getattr(torch, dtype), getattr(torch, layout)
    *numbers, _ = stride, padding, dilation, _ = [place[:2], place[2:4], place[4:6], 1]
    input = torch.randint(-2, 3, (3, channels, *sizes)).to(dtype).contiguous(memory_format=layout)
    kernels = torch.randint(-2, 3, (3, out_channels, channels, *kernel)).to(dtype)
    bias = torch.randint(-2, 3, (out_channels,)).to(dtype)
    force((input, kernels, None), [*place, 1])
    given = [input.requires_grad_(), kernels.requires_grad_(), bias.requires_grad_()]
    output = sample_conv2d(*given, stride=stride, padding=padding, dilation=dilation)
    exact = [one.detach().float().requires_grad_() for one in given]
    wanted = convolved(*exact, numbers)
    is_kept = lambda tensor: 1 in (channels, out_channels) or tensor.is_contiguous(memory_format=layout)
    assert is_kept(output) and output.dtype == dtype
    torch.testing.assert_close(output, wanted.to(dtype), rtol=0, atol=0)
    grad = torch.randint(-1, 2, output.shape).to(dtype)
    found = torch.autograd.grad(output, given, grad, retain_graph=True)
    assert is_kept(found[0]) and found[1].is_contiguous()
    for result, expected in zip(found, torch.autograd.grad(wanted, exact, grad.float())):
        torch.testing.assert_close(result, expected.to(dtype), rtol=0, atol=0)
    for one, result in zip(given[:2], found):
        (alone,) = torch.autograd.grad(output, one, grad, retain_graph=True)
        torch.testing.assert_close(alone, result, rtol=0, atol=0)

torch.manual_seed(0)
for case in json.loads(sys.argv[1]):
    try:
        compare(*case)
    except Exception as error:
        raise AssertionError(case) from error
"""
LAYERS = """
torch.manual_seed(0)
for dtype, digits in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
    for channels, out_channels, side, stride in ((3, 16, 7, 2), (3, 8, 3, 1), (1, 8, 4, 4), (12, 20, 3, 2)):
        input = torch.randn(2, channels, 17, 18).to(dtype).contiguous(memory_format=torch.channels_last)
        weight, shift = torch.randn(out_channels, channels, *[side] * 3).to(dtype), torch.randn(2, 3)
        bias, padding = torch.randn(out_channels).to(dtype), side // 2
        force((input, weight, shift), [stride, padding, 1, 1])
        given = [one.requires_grad_() for one in (input, weight, shift, bias)]
        output = crossd_conv2d(*given, stride, padding)
        exact = [one.detach().double().requires_grad_() for one in given]
        wanted = convolved(exact[0], fourier_shift_slice(*exact[1:3]), exact[3], (stride, padding))
        grad = torch.randn_like(output)
        results = output, *torch.autograd.grad(output, given, grad)
        for result, expected in zip(results, (wanted, *torch.autograd.grad(wanted, exact, grad.double()))):
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=digits * scale)
"""
# Channels in and out, sizes, kernel; stride, padding and dilation along height and width.
SIZES: list[tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, ...]]] = [
    (3, 64, (20, 18), (7, 7), (2, 2, 3, 3, 1, 1)),  # a ResNet's first layer
    (3, 8, (9, 11), (3, 3), (1, 1, 1, 1, 1, 1)),
    (1, 8, (9, 11), (5, 5), (2, 2, 0, 2, 1, 1)),
    (2, 16, (9, 13), (4, 4), (4, 4, 0, 0, 1, 1)),  # patches, of which some pixels are left
    (1, 8, (5, 19), (2, 3), (1, 8, 1, 5, 1, 1)),
    (3, 8, (9, 12), (2, 4), (1, 2, 0, 1, 2, 1)),
    (3, 8, (9, 12), (3, 3), (2, 2, 2, 2, 1, 2)),  # dilated along the width: pixels stay apart
    (3, 8, (4, 3), (3, 3), (2, 2, 1, 4, 1, 1)),  # padding beyond the image
    (1, 8, (6, 9), (1, 1), (2, 2, 0, 0, 1, 1)),
    (5, 8, (7, 8), (3, 3), (2, 2, 1, 1, 1, 1)),
    (6, 10, (7, 8), (3, 2), (1, 1, 1, 0, 1, 1)),  # channels of the result, too
    (20, 3, (7, 8), (3, 3), (1, 2, 1, 1, 1, 1)),
    (8, 1, (7, 8), (3, 3), (1, 1, 1, 1, 1, 1)),
]


def test_of_given_kernels() -> None:
    """The very values of torch's convolutions of each sample, and of its derivatives, together and alone."""
    layouts = itertools.cycle(("channels_last", "contiguous_format", "channels_last"))
    cases: list[Any] = [
        [dtype, *sizes, next(layouts)] for dtype in ("float32", "bfloat16", "float16") for sizes in SIZES
    ]
    output_of(COMPARING, json.dumps(cases))


def test_of_layers() -> None:
    output_of(COMPARING + LAYERS, "[]")
