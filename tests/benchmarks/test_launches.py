"""Launches are counted, held to bounds, and nothing that is not known counts as none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from heads import operator_calls

from benchmarks.networks.launches import launches_of
from crossd_ops import CrossDConv2d

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compiled_library")

# Of a 3x3 layer without bias, forward and backward.
BOUNDS = {mode: (6, 10) for mode in ("float32", "bfloat16", "autocast")}
OPERATORS = ["crossd_ops::predict_shift", "crossd_ops::convolution"]
COUNT = """
import json
from benchmarks.networks.launches import of_layer
modes = ("float32", "bfloat16", "autocast")
found = {f"{kind} {kernel} {mode}": [launches.total() for launches in of_layer(kind, kernel, mode)]
         for kind in ("plain", "crossd") for kernel in (1, 3) for mode in modes}
print("RESULT", json.dumps(found))
"""


@pytest.fixture(scope="module")
def counted() -> dict[str, list[int]]:
    """In a process of its own, as the branch is read once."""
    process = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, "CROSSD_CONVOLUTION_BRANCH": "gpu"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    found: dict[str, list[int]] = json.loads(process.stdout.partition("RESULT")[2])
    return found


@pytest.mark.parametrize("mode", BOUNDS)
def test_a_layer_stays_within_its_launches(counted: dict[str, list[int]], mode: str) -> None:
    forward, backward = counted[f"crossd 3 {mode}"]
    most_forward, most_backward = BOUNDS[mode]
    assert 5 <= forward <= most_forward and 5 <= backward <= most_backward


@pytest.mark.parametrize("mode", BOUNDS)
def test_a_pointwise_layer_has_one_more_than_a_plain_one(counted: dict[str, list[int]], mode: str) -> None:
    forward, backward = counted[f"plain 1 {mode}"]
    assert counted[f"crossd 1 {mode}"] == [forward, backward + 1]


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


def event(name: str, *children: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, cpu_children=children)


def test_a_call_counts_once_and_what_is_unknown_is_refused() -> None:
    step = event("_LayerBackward", event("crossd_ops::fourier_shift_backward", event("aten::sum")), event("aten::view"))
    copies = event("aten::contiguous", event("aten::clone", event("aten::empty_like"), event("aten::copy_")))
    assert launches_of([step, copies, event("aten::contiguous")]) == {"fourier_shift_backward": 2, "copy_": 1}
    for name in ("aten::histc", "crossd_ops::new_kernel"):
        with pytest.raises(ValueError, match=f"expected a known operator, got {name}"):
            launches_of([event("_Step", event(name))])
