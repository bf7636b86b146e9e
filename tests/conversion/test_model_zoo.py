"""The networks of the zoo: each converted has the output of the original, and trains."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from model_zoo import ZOO, enliven, images_for, output_of
from torch import Tensor, nn

from crossd_ops import CrossDConv2d, to_crossd


def deviation(result: Tensor, expected: Tensor) -> float:
    """The largest, in units of the largest expected value."""
    return ((result - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", ZOO)
def test_same_output_and_a_training_step(name: str) -> None:
    network = ZOO[name]
    model = network.build()
    enliven(model, images_for(network, 8))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="to_crossd leaves")
        converted = to_crossd(model)
    model.eval(), converted.eval()
    images = images_for(network, 2)
    with torch.no_grad():
        expected, result = output_of(model, images), output_of(converted, images)
        exact, exact_result = output_of(model.double(), images.double()), output_of(converted.double(), images.double())
    assert deviation(exact[:1], exact[1:]) > 1e-3, "the output hardly depends on the input"
    assert deviation(exact_result, exact) < 1e-8
    # Random networks multiply rounding, some of them beyond 1e-4 already before they are converted.
    assert deviation(result, expected) < max(1e-4, 10 * deviation(expected, exact))
    converted.float()
    assert_trains(converted, images)


def assert_trains(model: nn.Module, images: Tensor) -> None:
    """One step: a finite loss, and gradients that reach weight and angle of at least half of the layers."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = output_of(model, images).log_softmax(1)[:, 0].mean().neg()
    loss.backward()
    assert loss.isfinite()
    layers = [module for module in model.modules() if isinstance(module, CrossDConv2d)]
    weights = [_parameter(layer) for layer in layers]
    angles = [
        layer.rotation_params[-1].weight.grad[3]
        for layer in layers
        if layer.rotation_params[-1].weight.grad is not None
    ]
    # Stochastic depth leaves out some blocks.
    assert 2 * sum(bool(weight.grad.any()) for weight in weights if weight.grad is not None) >= len(layers) > 0
    assert 2 * sum(bool(angle.any()) for angle in angles) >= len(layers)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert not all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def _parameter(layer: CrossDConv2d) -> Tensor:
    """The one behind weights_3d."""
    steps: Any = getattr(layer, "parametrizations", None)
    return layer.weights_3d if steps is None else steps.weights_3d.original
