"""What the operators of the layer refuse when they are called without the functions around them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("compiled_library")

BIAS = r"bias: expected \(6,\) of the dtype of input, or float32 beside a half type,"
GOOD: dict[str, Any] = {
    "input": torch.zeros(2, 4, 6, 5),
    "weight": torch.zeros(6, 2, 3, 3, 3),
    "shift": torch.zeros(2, 3),
    "bias": torch.zeros(6),
    "place": [1, 1, 0, 0, 1, 1, 2, 0, 1],
}


def placed(position: int, number: int) -> dict[str, list[int]]:
    """The place with one other number."""
    return {"place": [number if i == position else other for i, other in enumerate(GOOD["place"])]}


VOLUMES = [1, 1, 1, 0, 0, 0, 1, 1, 1, 2]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": torch.zeros(2, 4, 6)}, r"input: expected \(B, C, H, W\) or \(B, C, D, H, W\), got \(2, 4, 6\)"),
    ({"input": torch.zeros(2, 5, 6, 5)}, r"input: expected \(2, 4, ...\), got \(2, 5, 6, 5\)"),
    ({"input": torch.zeros(3, 4, 6, 5)}, r"input: expected \(2, 4, ...\), got \(3, 4, 6, 5\)"),
    ({"input": torch.zeros(2, 4, 6, 2)}, r"input: expected at least 3 pixels along each axis with padding"),
    ({"input": torch.zeros(2, 4, 6, 5, dtype=torch.int32)}, "input: expected a dtype of float64, float32"),
    ({"weight": torch.zeros(6, 2, 3, 3)}, r"weight: expected \(O, C, Kd, Kh, Kw\), got \(6, 2, 3, 3\)"),
    ({"weight": torch.zeros(6, 2, 3, 16, 3)}, "weight: expected kernel sizes from 1 to 15"),
    ({"shift": torch.zeros(2, 4)}, r"shift: expected \(B, 3\), got \(2, 4\)"),
    ({"shift": torch.zeros(2, 3, dtype=torch.int64)}, "shift: expected a dtype of float64, float32"),
    ({"bias": torch.zeros(5)}, BIAS + r" got \(5,\)"),
    ({"bias": torch.zeros(6).double()}, BIAS + r" got \(6,\)"),
    ({"bias": torch.zeros(6, 1)}, BIAS + r" got \(6, 1\)"),
    (
        {"place": VOLUMES},
        r"place: .* along each of 2 axes\), groups, and perhaps dim and index, got \(1, 1, 1, 0, 0, 0, 1,",
    ),
    ({"place": [1, 1, 1, 2, 0]}, r"place: .* \(once, or along each of 2 axes\), .*, got \(1, 1, 1, 2, 0\)"),
    ({"place": [1, 1, 1]}, r"place: .*, got \(1, 1, 1\)"),
    ({"place": []}, r"place: .*, got \(\)"),
    (
        {"input": torch.zeros(2, 4, 6, 5, 4), "place": [1, 1, 1, 2, 0, 1]},
        r"place: .* 3 axes\), groups, got \(1, 1, 1, 2",
    ),
    (placed(1, 0), r"stride: expected ints, each at least 1, got \(1, 0\)"),
    (placed(2, -1), r"padding: expected ints, each at least 0, got \(-1, 0\)"),
    (placed(4, 0), r"dilation: expected ints, each at least 1, got \(0, 1\)"),
    (placed(1, 2**31), r"stride: expected ints below 2\^31, got \(1, 2147483648\)"),
    (placed(3, 2**63 - 1), r"padding: expected ints below 2\^31, got \(0, 9223372036854775807\)"),
    ({"place": [1, 1, 2**62, 2]}, r"dilation: expected ints below 2\^31, got \(4611686018427387904,\)"),
    ({"place": [1, 1, 2**31 - 1, 2]}, "input: expected at least 4294967295 pixels along each axis with padding"),
    (
        {"place": [1, 2**31 - 1, 1, 2], "input": torch.zeros(2, 4, 4, 4)},  # 2^64 pixels
        r"input: expected .* fewer than 2\^58 multiply-adds, got sizes \(2, 6, 4294967296, 4294967296\) of the result",
    ),
    ({"place": [0, 0, 1, 2]}, r"stride: expected ints, each at least 1, got \(0,\)"),
    (placed(6, 0), "groups: expected a divisor of 6 output channels, got 0"),
    (placed(6, -2), "groups: expected a divisor of 6 output channels, got -2"),
    (placed(6, 4), "groups: expected a divisor of 6 output channels, got 4"),
    (placed(7, 3), "dim: expected 0, 1 or 2, got 3"),
    (placed(8, 3), "index: expected 0 to 2, got 3"),
    (placed(8, -1), "index: expected 0 to 2, got -1"),
]


def names(bad: object) -> str:
    return "-".join(bad) if isinstance(bad, dict) else ""


@pytest.mark.parametrize("bad, message", BAD, ids=names)
def test_bad_arguments_are_named(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.crossd_ops.convolution(**GOOD | bad)
    if "bias" not in bad:
        arguments = GOOD | bad
        del arguments["bias"]
        with pytest.raises(ValueError, match=message):
            torch.ops.crossd_ops.convolution_backward(
                torch.zeros(2, 6, 4, 3), **arguments, need_input=True, need_weight=True, need_shift=True
            )


@pytest.mark.parametrize(
    "grad, message",
    [
        (torch.zeros(2, 6, 4, 4), r"grad: expected \(2, 6, 4, 3\), got \(2, 6, 4, 4\)"),
        (torch.zeros(2, 6, 4, 3).double(), "grad: expected the dtype of input"),
    ],
)
def test_a_gradient_has_to_fit_the_output(grad: torch.Tensor, message: str) -> None:
    arguments = {name: value for name, value in GOOD.items() if name != "bias"}
    with pytest.raises(ValueError, match=message):
        torch.ops.crossd_ops.convolution_backward(grad, **arguments, need_input=True, need_weight=True, need_shift=True)


@pytest.mark.parametrize(
    "short, whole",
    [
        ([2, 1, 1, 2], [2, 2, 1, 1, 1, 1, 2, 0, 1]),
        ([2, 1, 1, 2, 2, 0], [2, 2, 1, 1, 1, 1, 2, 2, 0]),
        ([2, 1, 1, 0, 1, 1, 2], [2, 1, 1, 0, 1, 1, 2, 0, 1]),
        ([2, 1, 1, 2], [2, 2, 2, 1, 1, 1, 1, 1, 1, 2]),
    ],
    ids=str,
)
def test_what_a_place_leaves_out(short: list[int], whole: list[int]) -> None:
    """One number for all axes, the middle slice along the first axis."""
    axes = 3 if len(whole) == 10 else 2
    input, weight, shift = torch.randn(2, 4, *(7, 6, 5)[:axes]), torch.randn(6, 2, 3, 3, 3), torch.randn(2, 3)
    operators = torch.ops.crossd_ops
    output = operators.convolution(input, weight, shift, None, whole)
    torch.testing.assert_close(operators.convolution(input, weight, shift, None, short), output, rtol=0, atol=0)
    arguments = torch.randn_like(output), input, weight, shift
    found = operators.convolution_backward(*arguments, short, True, True, True)
    torch.testing.assert_close(
        found, operators.convolution_backward(*arguments, whole, True, True, True), rtol=0, atol=0
    )
    torch.library.opcheck(operators.convolution.default, (input, weight, shift, None, short))


@pytest.mark.parametrize("empty", ["samples", "outputs", "inputs"])
def test_nothing_to_convolve(empty: str) -> None:
    """No samples, no output channels, no input channels: sizes as ever, and gradients of zero."""
    samples, outputs, inputs = (0 if name == empty else 2 for name in ("samples", "outputs", "inputs"))
    tensors = {
        "input": torch.randn(samples, inputs, 6, 5),
        "weight": torch.randn(outputs, inputs, 3, 3, 3),
        "shift": torch.randn(samples, 3),
    }
    place = [1, 1, 1, 1, 1, 1, 1, 0, 1]
    bias = torch.randn(outputs)
    output = torch.ops.crossd_ops.convolution(**tensors, bias=bias, place=place)
    torch.testing.assert_close(output, bias[None, :, None, None].expand(samples, outputs, 6, 5))
    needs = {"need_input": True, "need_weight": True, "need_shift": True}
    found = torch.ops.crossd_ops.convolution_backward(torch.randn_like(output), **tensors, place=place, **needs)
    for gradient, tensor in zip(found, tensors.values(), strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(tensor))


@pytest.mark.parametrize("operator", ["convolution", "sample_convolution"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bias_of_float32_beside_half_types(operator: str, dtype: torch.dtype) -> None:
    """As autocast has it: what the method of the problem cannot read in float32 is rounded first."""
    input, bias = torch.randn(2, 4, 9, 8).to(dtype), torch.randn(6)
    weight = torch.randn(6, 2, 3, 3, 3) if operator == "convolution" else torch.randn(2, 6, 2, 3, 3).to(dtype)
    others = [weight, torch.randn(2, 3)] if operator == "convolution" else [weight]
    call = getattr(torch.ops.crossd_ops, operator)
    found, rounded = (call(input, *others, one, [1, 1, 1, 2]) for one in (bias, bias.to(dtype)))
    assert found.dtype is dtype and torch.equal(found, rounded)
