"""Launches are counted, and held to bounds."""

from __future__ import annotations

import pytest
import torch
from heads import operator_calls

from benchmarks.gpu.launches import MODES, of_layer
from crossd_ops import CrossDConv2d

pytestmark = pytest.mark.usefixtures("compiled_library")

# Of a 3x3 layer, forward and backward.
BOUNDS = dict.fromkeys(MODES, (4, 8))
OPERATORS = ["crossd_ops::predict_shift", "crossd_ops::convolution"]


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_stays_within_its_launches(mode: str) -> None:
    forward, backward = (launches.total() for launches in of_layer("crossd", 3, mode))
    most_forward, most_backward = BOUNDS[mode]
    assert 4 <= forward <= most_forward and 5 <= backward <= most_backward
    with_bias = [launches.total() for launches in of_layer("crossd", 3, mode, bias=True)]
    assert with_bias == [forward, backward + 1]  # its gradient; it is read as it is


@pytest.mark.parametrize("mode", MODES)
def test_a_pointwise_layer_has_more_than_a_plain_one_only_for_its_head(mode: str) -> None:
    """Zeros for the gradients of the head's parameters, which it does not use, in one memory."""
    plain, crossd = of_layer("plain", 1, mode), of_layer("crossd", 1, mode)
    assert crossd[0] == plain[0]
    assert crossd[1] == plain[1] | {"aten.zeros": 1}


def test_operators_that_python_dispatches() -> None:
    """Of head and convolution one each way, and nothing else but the sum that is the bias' gradient."""
    layer, image = CrossDConv2d(4, 6, 3), torch.randn(2, 4, 7, 7, requires_grad=True)
    with operator_calls() as names:
        output = layer(image)
    assert names == OPERATORS
    with torch.no_grad(), operator_calls() as names:
        layer.eval()(image)
    assert names == OPERATORS
    grad = torch.ones_like(output)
    with operator_calls() as names:
        output.backward(grad)
    work = [name for name in names if name not in ("aten::detach", "aten::new_empty_strided")]
    assert work == ["crossd_ops::convolution_backward", "crossd_ops::predict_shift_backward", "aten::sum"]
