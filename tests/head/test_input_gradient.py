"""The gradient of a layer's input: the head's operator adds what stands beside its own part while it writes it."""

from __future__ import annotations

import pytest
import torch
from heads import float32_head, operator_calls

from crossd_ops import CrossDConv2d

pytestmark = pytest.mark.usefixtures("compiled_library")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded", "other"])
def test_the_operator_adds_what_stands_beside(layout: str) -> None:
    head, input = float32_head(9), torch.randn(3, 9, 11, 16)
    if layout == "channels_last":
        input = input.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        input = input.mT
    beside = torch.empty_like(input).normal_()
    if layout == "expanded":
        beside = beside[:1].expand_as(input)
    elif layout == "other":
        beside = torch.randn(3, 9, 16, 11).mT
    parameters = [parameter.detach() for parameter in head.parameters()]
    forward = (input, *parameters[:4], None, None, 1e-5, *parameters[4:], False)
    shift, statistics, mean, variance = torch.ops.crossd_ops.predict_shift(*forward)
    small = (*parameters[:4], mean, variance, True, 1e-5, *parameters[4:], statistics, False, True, True)
    alone, *others = torch.ops.crossd_ops.predict_shift_backward(shift, input, *small)
    both, *same = torch.ops.crossd_ops.predict_shift_backward(shift, input, *small, beside)
    torch.testing.assert_close(both, alone + beside, rtol=0, atol=0)
    assert both.stride() == alone.stride() and all(map(torch.equal, same, others))
    for wrong in (beside[:2], beside.double(), beside[0]):
        with pytest.raises(ValueError, match="grad_beside: expected size, type and device of the input"):
            torch.ops.crossd_ops.predict_shift_backward(shift, input, *small, wrong)


def test_no_launch_adds_the_gradients_of_a_layers_input() -> None:
    layer, input = CrossDConv2d(6, 4, 3, padding=1), torch.randn(2, 6, 5, 5, requires_grad=True)
    output = layer(input)
    with operator_calls() as names:
        output.backward(torch.ones_like(output))
    assert names.count("crossd_ops::predict_shift_backward") == 1
    assert not {"aten::add", "aten::add_"} & {*names}, names
