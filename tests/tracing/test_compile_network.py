"""torch.compile of a whole network's training step: one graph, eager values and gradients, any batch size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from benchmarks.models import CONVOLUTIONS, build_model
from crossd_ops import CrossDConv2d

pytestmark = pytest.mark.usefixtures("compiled_library")

CLASSES = 5


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batch(samples: int, size: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(samples, 3, size, size, dtype=torch.float64)  # a deep network multiplies rounding
    return images, torch.arange(samples) % CLASSES


def training_step(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, labels: nn.functional.cross_entropy(model(images), labels)


def assert_same_step(
    model: nn.Module, compiled: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> None:
    """The compiled step's loss, gradients and running statistics are those of an eager copy of the model."""
    eager = copy.deepcopy(model)
    for each in (model, eager):
        each.zero_grad()
    loss = compiled(images, labels)
    loss.backward()
    expected = training_step(eager)(images, labels)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for (name, mine), wanted in zip(model.named_parameters(), eager.parameters(), strict=True):
        # Relative to the largest: the bias before a BatchNorm has a gradient that is nothing but rounding.
        scale = float(wanted.grad.abs().max())
        torch.testing.assert_close(
            mine.grad, wanted.grad, rtol=0, atol=2e-3 * scale + 1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for mine, wanted in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


# aot_eager traces forward and backward of the whole network as Inductor has it traced, but generates no code, which
# would take most of the time for a network of 20 layers; Inductor itself gets the smaller networks below.
def resnet18() -> nn.Module:
    torch.manual_seed(1)
    return build_model("resnet18", CONVOLUTIONS["crossd"], classes=CLASSES, width=8).double()


def test_a_resnet18_step_of_fixed_batch_size() -> None:
    model, (images, labels) = resnet18(), batch(2, 64)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(training_step(model), fullgraph=True, dynamic=False, backend=counter)
    assert_same_step(model, compiled, images, labels)
    assert_same_step(model, compiled, *batch(2, 64))
    assert counter.frame_count == 1
    assert not counters["graph_break"]


def test_a_resnet18_step_of_any_batch_size() -> None:
    model = resnet18()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(training_step(model), fullgraph=True, backend=counter)
    for samples in (2, 3, 5):
        images, labels = batch(samples, 64)
        torch._dynamo.mark_dynamic(images, 0)
        torch._dynamo.mark_dynamic(labels, 0)
        assert_same_step(model, compiled, images, labels)
    assert counter.frame_count == 1
    assert not counters["graph_break"]


def small_network() -> nn.Sequential:
    """A layer of few channels, one of few pixels and one without a shift: three ways to convolve."""
    torch.manual_seed(1)
    layers = (
        CrossDConv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        CrossDConv2d(16, 16, 3, padding=1, rotation="exact"),
        CrossDConv2d(16, 8, 3, stride=3),
        CrossDConv2d(8, CLASSES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(*layers).double()


def test_inductor_compiles_once_for_any_batch_size() -> None:
    model = small_network()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(training_step(model), fullgraph=True, backend=counter)
    for samples in (2, 3, 5):
        images, labels = batch(samples, 16)
        # Inductor may not make a constant of the batch size: where it is marked, that is an error.
        torch._dynamo.mark_dynamic(images, 0)
        torch._dynamo.mark_dynamic(labels, 0)
        assert_same_step(model, compiled, images, labels)
    assert counter.frame_count == 1
    assert not counters["graph_break"]


def test_inductor_with_a_fixed_shift() -> None:
    model = small_network()
    model[3].fix_shift(torch.tensor([0.5, 1.25, -0.75]))
    compiled = torch.compile(training_step(model), fullgraph=True, dynamic=False)
    assert_same_step(model, compiled, *batch(2, 8))
