"""The convolution with one weight for all samples as a GPU has it, tried on the CPU with columns of its own."""

from __future__ import annotations

import pytest
import torch
from other_process import assert_tests_pass
from test_gpu_branch import output_of

from crossd_ops.tuning import choice

pytestmark = pytest.mark.usefixtures("compiled_library")

SHARED = """
import torch
from crossd_ops import crossd_conv2d, crossd_conv3d, use_backend
from crossd_ops.tuning import choice

def compare(input, weight, shift, *, digits, **options):
    convolve = crossd_conv2d if input.dim() == 4 else crossd_conv3d
    bias = torch.randn(weight.shape[0]).to(input.dtype)
    given = [input, weight, shift, bias]
    place = [options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1), options.get("groups", 1)]
    if "dim" in options:
        place += [options["dim"], options["index"]]
    keys = []
    for backward in (False, True):
        keys.append(choice.explain(*given[:3], tuple(place), backward=backward).key)
        choice.set_method(keys[-1], "shared")
    given = [one.requires_grad_() for one in given]
    with torch.autocast("cpu", input.dtype, enabled=input.dtype is not weight.dtype):
        output = convolve(*given, **options)
    assert output.is_contiguous(memory_format=format_of(input)) and output.dtype == input.dtype
    grad = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
    found = torch.autograd.grad(output, given, grad, retain_graph=True)
    for one, result in zip(given[:3], found):
        assert result.dtype == one.dtype
        (alone,) = torch.autograd.grad(output, one, grad, retain_graph=True)
        assert torch.equal(alone, result)
    assert found[0].is_contiguous(memory_format=format_of(input)) and found[1].is_contiguous()
    exact = [one.detach().double().requires_grad_() for one in given]
    with use_backend("reference"):
        wanted = convolve(*exact, **options)
        gradients = torch.autograd.grad(wanted, exact, grad.double())
    for result, expected in zip((output, *found), (wanted, *gradients)):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=digits * scale)
    for key in keys:
        choice.set_method(key, None)

def format_of(input):
    channels_last = torch.channels_last if input.dim() == 4 else torch.channels_last_3d
    return channels_last if input.stride(1) == 1 else torch.contiguous_format

def in_format(input, channels_last):
    format = torch.channels_last if input.dim() == 4 else torch.channels_last_3d
    return input.contiguous(memory_format=format) if channels_last else input
"""
CHUNKS = """
torch.manual_seed(0)
# Two samples, then one; and each in two parts: of 2^20 elements of columns at the most.
for samples, size in ((3, 45), (2, 70)):
    for dtype, digits in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        input = in_format(torch.randn(samples, 8, size, size).to(dtype), size == 45)
        compare(input, torch.randn(2, 8, 3, 3, 3).to(dtype), torch.randn(samples, 3), digits=digits, padding=1)
"""
TYPES = """
torch.manual_seed(0)
wide = torch.randn(2, 12, 9, 4).contiguous(memory_format=torch.channels_last).bfloat16()
compare(wide[:, 3:9, :8:2], torch.randn(4, 6, 3, 3, 3), torch.randn(2, 3), digits=2e-2, padding=1)
compare(torch.randn(2, 6, 9, 4).half(), torch.randn(4, 6, 3, 3, 3), torch.randn(2, 3), digits=3e-3, padding=1)
weight = torch.randn(3, 5, 3, 2, 4).permute(4, 3, 0, 1, 2)
compare(torch.randn(2, 4, 5, 4), weight, torch.randn(2, 3), digits=1e-5, padding=2, groups=2, dim=1, index=4)
compare(torch.randn(2, 3, 9, 8, 7), torch.randn(4, 3, 3, 5, 3), torch.randn(2, 3), digits=1e-5, stride=2, dilation=2,
    padding=3)
"""


def test_values_are_those_of_the_reference() -> None:
    """Every kernel, type and number of groups, and some gradients alone."""
    chosen = "not chunks and not are_shared and not costs and not given and not second_order"
    assert_tests_pass(("shared_convolution",), chosen, more_than=25, CROSSD_CONVOLUTION_BRANCH="gpu")


@pytest.mark.parametrize("script", [CHUNKS, TYPES], ids=["chunks", "types"])
def test_parts_of_samples_mixed_types_and_strides(script: str) -> None:
    output_of(SHARED + script)


@pytest.mark.parametrize(
    ("kernel", "dim", "fits"),
    [
        ((3, 3, 3), None, True),
        ((1, 5, 7), 0, True),
        ((3, 4, 3), 0, False),
        ((4, 3, 3), 0, False),  # the weight's alone
        ((3, 3, 9), 2, False),
        ((3, 4, 3), None, False),
    ],
)
def test_odd_sizes_up_to_seven_can_be_shared(kernel: tuple[int, ...], dim: int | None, fits: bool) -> None:
    axes = 3 if dim is None else 2
    tensors = torch.ones(2, 4, *[9] * axes), torch.ones(4, 4, *kernel), torch.ones(2, 3)
    place = (1, 1, 1, 1) if dim is None else (1, 1, 1, 1, dim, 0)
    for backward in (False, True):
        found = choice.explain(*tensors, place, backward=backward, on_gpu=True)
        assert ("shared" in found.possible) == fits
        assert "shared" in choice.explain(*tensors, place, backward=backward).possible
