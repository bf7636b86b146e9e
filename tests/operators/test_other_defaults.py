"""The package where `torch.set_default_device` and `torch.set_default_dtype` say something else."""

from __future__ import annotations

import os

import pytest
import torch
from heads import operator_calls
from other_process import TESTS, assert_tests_pass
from torch import nn

from crossd_ops import CrossDConv2d, bake, calibrate, fourier_shift, self_test, to_2d, to_3d, to_crossd


def test_the_suite_under_other_defaults(compiled_library: None) -> None:
    """Part of it, with tensors of float64 on "meta" wherever the package does not say otherwise."""
    assert_tests_pass(
        (
            "bake",
            "calibration",
            "checkpoints",
            "planes",
            "to_crossd",
            "to_3d",
            "to_2d",
            "autograd",
            "modules",
            "modules_3d",
            "main",
        ),
        # Left out: what makes tensors by default itself (the emulator, a data loader, a network), and what takes long.
        "not (emulated or data_loader or no_tensor or command or instruction or installed or compile)",
        more_than=400,
        PYTEST_ADDOPTS="-p other_defaults -n0",
        PYTHONPATH=os.pathsep.join([str(TESTS / "common"), os.environ.get("PYTHONPATH", "")]),
    )


@pytest.fixture
def float64_on_meta() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(before)


NETWORK, IMAGES = nn.Sequential(CrossDConv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), torch.randn(2, 1, 8, 8)


def test_what_is_made_is_like_the_network(float64_on_meta: None) -> None:
    shifts = calibrate(NETWORK, [IMAGES], progress=False)
    made = [bake(NETWORK, shifts), to_crossd(NETWORK), to_2d(to_3d(NETWORK, "crossd"))]
    made += [to_3d(NETWORK, recipe, batches=shifts) for recipe in ("published", "shifted", "slice-i3d", "slice-acs")]
    for model in made:
        assert {(tensor.device.type, tensor.dtype) for tensor in model.parameters()} == {("cpu", torch.float32)}
    assert {(tensor.device.type, tensor.dtype) for tensor in shifts.values()} == {("cpu", torch.float32)}


def test_new_layers_are_what_torchs_are(float64_on_meta: None) -> None:
    for layer in (CrossDConv2d(1, 4, 3), nn.Conv2d(1, 4, 3)):
        assert {(tensor.device.type, tensor.dtype) for tensor in layer.parameters()} == {("meta", torch.float64)}


def test_self_test(float64_on_meta: None) -> None:
    assert self_test("cpu").passed


@pytest.mark.parametrize("sizes", [(2, 4, 3), (3, 3, 3)])
def test_second_derivatives(sizes: tuple[int, ...]) -> None:
    """Even sizes have terms at shifts moved by half an element."""
    weight, shift = torch.randn(2, 2, *sizes, requires_grad=True), torch.randn(3, 3, requires_grad=True)

    def second() -> tuple[torch.Tensor, ...]:
        first = torch.autograd.grad(fourier_shift(weight, shift).pow(3).sum(), (weight, shift), create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in first), (weight, shift))

    with operator_calls() as expected_calls:
        expected = second()
    torch.set_default_dtype(torch.float64)
    try:
        with operator_calls() as calls:
            result = second()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert calls == expected_calls
