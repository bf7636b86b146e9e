"""Bad arguments: the type and the whole text of the error, the same on every backend, before any work."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import crossd_ops
from crossd_ops import reference

WEIGHT, SHIFT = torch.zeros(2, 3, 3, 4, 5), torch.zeros(2, 3)
META = torch.zeros(2, 3, device="meta")

SHIFT_ERRORS: list[tuple[dict, type[Exception], str]] = [
    ({"weight": [1.0]}, TypeError, "weight: expected a Tensor, got list"),
    ({"weight": WEIGHT.int()}, TypeError,
     "weight: expected a dtype of float64, float32, bfloat16 or float16, got torch.int32"),
    ({"weight": WEIGHT.to(torch.complex64)}, TypeError,
     "weight: expected a dtype of float64, float32, bfloat16 or float16, got torch.complex64"),
    ({"weight": WEIGHT[0]}, ValueError, "weight: expected (O, C, Kd, Kh, Kw), got (3, 3, 4, 5)"),
    ({"weight": torch.zeros(2, 3, 3, 16, 3)}, ValueError,
     "weight: expected kernel sizes from 1 to 15, got (2, 3, 3, 16, 3)"),
    ({"weight": torch.zeros(2, 3, 3, 0, 3)}, ValueError,
     "weight: expected kernel sizes from 1 to 15, got (2, 3, 3, 0, 3)"),
    ({"shift": (1, 1, 1)}, TypeError, "shift: expected a Tensor, got tuple"),
    ({"shift": SHIFT.long()}, TypeError,
     "shift: expected a dtype of float64, float32, bfloat16 or float16, got torch.int64"),
    ({"shift": torch.zeros(8, 2)}, ValueError, "shift: expected (B, 3), got (8, 2)"),
    ({"shift": torch.zeros(3)}, ValueError, "shift: expected (B, 3), got (3,)"),
    ({"shift": torch.zeros(1, 2, 3)}, ValueError, "shift: expected (B, 3), got (1, 2, 3)"),
    ({"shift": META}, ValueError, "shift: expected the device of weight (cpu), got meta"),
    ({"dtype": torch.int8}, TypeError, "dtype: expected float64, float32, bfloat16 or float16, got torch.int8"),
    ({"dtype": "float32"}, TypeError, "dtype: expected float64, float32, bfloat16 or float16, got float32"),
]  # fmt: skip
SLICE_ERRORS: list[tuple[dict, type[Exception], str]] = [
    ({"dim": 3}, ValueError, "dim: expected -3 to 2, got 3"),
    ({"dim": -4}, ValueError, "dim: expected -3 to 2, got -4"),
    ({"dim": 1.0}, TypeError, "dim: expected an int, got float"),
    ({"index": 3}, ValueError, "index: expected -3 to 2, got 3"),
    ({"dim": 2, "index": -6}, ValueError, "index: expected -5 to 4, got -6"),
    ({"index": "1"}, TypeError, "index: expected an int or None, got str"),
]


def assert_raises(function: Callable, arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        function(**arguments)


@pytest.mark.parametrize("wrong, error, text", SHIFT_ERRORS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("name", ["fourier_shift", "fourier_shift_slice"])
def test_shift(backend: str, name: str, wrong: dict, error: type[Exception], text: str) -> None:
    for module in (crossd_ops, reference):
        assert_raises(getattr(module, name), {"weight": WEIGHT, "shift": SHIFT, **wrong}, error, text)


@pytest.mark.parametrize("wrong, error, text", SLICE_ERRORS, ids=lambda value: value if isinstance(value, str) else "")
def test_slice(backend: str, wrong: dict, error: type[Exception], text: str) -> None:
    for module in (crossd_ops, reference):
        assert_raises(module.fourier_shift_slice, {"weight": WEIGHT, "shift": SHIFT, **wrong}, error, text)


@pytest.mark.parametrize(
    "wrong, error, text",
    [
        ({"input": torch.zeros(3, 8, 8)}, ValueError, "input: expected (B, C, H, W), got (3, 8, 8)"),
        ({"input": torch.zeros(2, 4, 8, 8)}, ValueError, "input: expected 3 channels, got (2, 4, 8, 8)"),
        (
            {"input": torch.zeros(2, 3, 8, 4)},
            ValueError,
            "input: expected at least 5 pixels along each axis with padding, got (2, 3, 8, 4)",
        ),
        ({"input": torch.zeros(5, 3, 8, 8)}, ValueError, "shift: expected (5, 3), got (2, 3)"),
        ({"input": None}, TypeError, "input: expected a Tensor, got NoneType"),
        ({"groups": 0}, ValueError, "groups: expected a positive int, got 0"),
        ({"groups": 3}, ValueError, "weight: expected a multiple of 3 groups as O, got (2, 3, 3, 4, 5)"),
        ({"bias": torch.zeros(3)}, ValueError, "bias: expected (2,), got (3,)"),
        ({"index": 9}, ValueError, "index: expected -3 to 2, got 9"),
        ({"shift": torch.zeros(2, 4)}, ValueError, "shift: expected (B, 3), got (2, 4)"),
    ],
)
def test_convolution(backend: str, wrong: dict, error: type[Exception], text: str) -> None:
    arguments = {"input": torch.zeros(2, 3, 8, 8), "weight": WEIGHT, "shift": SHIFT, **wrong}
    assert_raises(crossd_ops.crossd_conv2d, arguments, error, text)


@pytest.mark.parametrize(
    "wrong, error, text",
    [
        ({"axis": torch.zeros(3)}, ValueError, "axis: expected (B, 3), got (3,)"),
        ({"axis": 1}, TypeError, "axis: expected a Tensor, got int"),
        ({"angle": torch.zeros(3)}, ValueError, "angle: expected (2,) or (2, 1), got (3,)"),
        ({"angle": torch.zeros(2, 2)}, ValueError, "angle: expected (2,) or (2, 1), got (2, 2)"),
        ({"angle": torch.zeros(2, device="meta")}, ValueError, "angle: expected the device of axis (cpu), got meta"),
        ({"rotation": "none"}, ValueError, "rotation: expected 'linear' or 'exact', got 'none'"),
    ],
)
def test_rotation(wrong: dict, error: type[Exception], text: str) -> None:
    for module in (crossd_ops, reference):
        arguments = {"axis": torch.zeros(2, 3), "angle": torch.zeros(2), "rotation": "linear", **wrong}
        assert_raises(module.rotation_shift, arguments, error, text)


@pytest.mark.usefixtures("compiled_library")
@pytest.mark.parametrize(
    "wrong, text",
    [
        ({0: WEIGHT[0]}, "weight: expected (O, C, Kd, Kh, Kw), got (3, 3, 4, 5)"),
        ({0: torch.zeros(2, 3, 3, 16, 3)}, "weight: expected kernel sizes from 1 to 15, got (2, 3, 3, 16, 3)"),
        ({1: torch.zeros(8, 2)}, "shift: expected (B, 3), got (8, 2)"),
        ({1: SHIFT.double()}, "shift: expected float32 for this weight"),
        ({2: 3}, "dim: expected 0, 1 or 2, got 3"),
        ({3: 3}, "index: expected 0 to 2, got 3"),
        ({2: 1, 3: None}, "dim: expected 0 for the whole weight, got 1"),
    ],
)
def test_operator_called_directly(wrong: dict, text: str) -> None:
    arguments = [WEIGHT, SHIFT, 0, 1, torch.float32]
    for position, value in wrong.items():
        arguments[position] = value
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        torch.ops.crossd_ops.fourier_shift(*arguments)
