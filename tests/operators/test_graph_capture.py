"""A training step captured as a CUDA graph: its replays equal steps that are launched one by one.

Without a GPU: that a step does nothing which a capture forbids, wait for the device above all.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

import pytest
import torch
from emulator.build import CSRC
from heads import operator_calls
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from crossd_ops import CrossDConv2d

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
of_each_type = pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])

DEVICE = "cuda"
WARM_UP_STEPS = 3  # before the capture: libraries choose algorithms and allocate, which a capture must not see
REPLAYS = 4
WAITING = ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "unique_dim", "_unique2", "masked_select")


def network(device: str = DEVICE) -> nn.Sequential:
    torch.manual_seed(1)
    with torch.device(device):
        return nn.Sequential(
            CrossDConv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            CrossDConv2d(16, 8, 3, stride=2, padding=1, rotation="exact"),
            CrossDConv2d(8, 4, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def batches(count: int, device: str = DEVICE) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 3, 18, 17, device=device), torch.randint(4, (4,), device=device)) for _ in range(count)]


class Step:
    """Forward, backward and a step of SGD on inputs that stay where they are."""

    def __init__(self, model: nn.Module, autocast: bool, device: str = DEVICE) -> None:
        self.model, self.autocast, self.device = model, autocast, device
        self.images, self.labels = batches(1, device)[0]
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        self.loss = torch.zeros((), device=device)

    def load(self, images: Tensor, labels: Tensor) -> None:
        self.images.copy_(images)
        self.labels.copy_(labels)

    def run(self) -> None:
        # A cache of cast weights from outside of the graph would be read by it, and never be renewed.
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            scores = self.model(self.images)
        loss = nn.functional.cross_entropy(scores.float(), self.labels)
        loss.backward()
        self.optimizer.step()
        self.loss.copy_(loss.detach())


def _warm_up(step: Step, data: list[tuple[Tensor, Tensor]]) -> None:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for images, labels in data:
            step.load(images, labels)
            step.optimizer.zero_grad(set_to_none=True)
            step.run()
    torch.cuda.current_stream().wait_stream(stream)


@pytest.fixture
def exact_libraries() -> Iterator[None]:
    """No TF32, and the same algorithms in both runs."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False
    yield
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


@pytest.mark.usefixtures("compiled_library")
@of_each_type
def test_no_step_asks_a_tensor_for_its_values(autocast: bool) -> None:
    """Fake tensors have none, so what asks raises. Nor has the operator of the CPU's whole head: as on a GPU, its
    layers run and are recomputed."""
    with FakeTensorMode():
        step = Step(network("cpu"), autocast, "cpu")
        with operator_calls() as names:
            step.run()
        assert step.model[0].weights_3d.grad.shape == (16, 3, 3, 3, 3)
    ours = {name.removeprefix("crossd_ops::") for name in names if name.startswith("crossd_ops::")}
    assert ours == {"rotation_head", "rotation_head_backward", "convolution", "convolution_backward"}


@pytest.mark.usefixtures("compiled_library")
@of_each_type
def test_no_step_of_real_tensors_does_what_waits(autocast: bool) -> None:
    """Fake tensors go the general way; these go the straight one, and torch's profiler sees what operators call."""
    step = Step(network("cpu"), autocast, "cpu")
    with torch.autograd.profiler.profile() as profiler:
        step.run()
    names = {event.name for event in profiler.function_events}
    assert "crossd_ops::convolution_backward" in names
    assert autocast or "crossd_ops::predict_shift_backward" in names
    assert names & {f"aten::{name}" for name in WAITING} == set()


def test_the_library_calls_nothing_that_a_capture_forbids() -> None:
    """No allocation, copy or synchronisation of its own beside the launches: memory comes from torch."""
    sources = [path.read_text() for path in sorted(CSRC.rglob("*")) if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    calls = {call for text in sources for call in re.findall(r"\bcu(?:da)?[A-Z]\w+(?=\()", text)}
    assert calls == {"cudaFuncSetAttribute", "cudaGetLastError", "cudaGetErrorString"}


@needs_gpu
@pytest.mark.usefixtures("exact_libraries")
@of_each_type
def test_replayed_training_steps_equal_eager_ones(autocast: bool) -> None:
    model = network()
    eager = Step(copy.deepcopy(model), autocast)
    captured = Step(model, autocast)
    warm_up, data = batches(WARM_UP_STEPS), batches(REPLAYS)
    for step in (eager, captured):
        _warm_up(step, warm_up)

    graph = torch.cuda.CUDAGraph()
    # Gradients that are allocated in the capture live in the graph's memory, and each replay writes them anew.
    captured.optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        captured.run()

    tolerance = {"rtol": 5e-2, "atol": 5e-3} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    losses = []
    for images, labels in data:
        captured.load(images, labels)
        graph.replay()
        eager.load(images, labels)
        eager.optimizer.zero_grad(set_to_none=True)
        eager.run()
        torch.testing.assert_close(captured.loss, eager.loss, **tolerance)
        losses.append(captured.loss.item())
    assert len(set(losses)) == REPLAYS, "the replays do not see their inputs"
    for (name, mine), wanted in zip(captured.model.named_parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(mine.grad, wanted.grad, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
    for mine, wanted in zip(captured.model.buffers(), eager.model.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted, **tolerance)


@needs_gpu
@pytest.mark.usefixtures("exact_libraries")
def test_graphed_callables_equal_the_network() -> None:
    """Forward and backward each a graph; the zeros of a head that is skipped are among the gradients it asks for."""
    model = network()
    eager = copy.deepcopy(model)
    batch = batches(1)[0][0].requires_grad_()
    graphed = torch.cuda.make_graphed_callables(model, (batch,))
    eager.load_state_dict(model.state_dict())  # the warm-up has counted batches
    for images, labels in batches(REPLAYS):
        images.requires_grad_()
        for each in (graphed, eager):
            each.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(each(images), labels).backward()
        for mine, wanted in zip(graphed.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-4, atol=1e-5)
    for mine, wanted in zip(graphed.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@needs_gpu
@pytest.mark.usefixtures("exact_libraries")
def test_replayed_inference_follows_its_input() -> None:
    model = network().eval()
    images = batches(1)[0][0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(WARM_UP_STEPS):
            model(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = model(images)
    for new, _ in batches(2):
        images.copy_(new)
        graph.replay()
        with torch.no_grad():
            torch.testing.assert_close(output, model(new), rtol=1e-4, atol=1e-5)
