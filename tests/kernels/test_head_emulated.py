"""The CUDA kernels of the whole head, run by the emulator, and under sanitizers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from emulator.build import CACHE, CSRC, EMULATOR, RUNS, altered_sources, assert_check_passes, compile_program, why_not
from emulator.cuda_head_harness import EmulatedHead, want_few_blocks
from emulator.cuda_head_metering import WholeHeadCase
from torch import Tensor

from benchmarks.gpu.prediction import whole_head_models

CHECK = EMULATOR / "cuda_head_check.cpp"
EPSILON = 1e-5


@pytest.mark.parametrize(
    ("variant", "blocks", "runs"),
    [
        ("plain", "many", RUNS["plain"]),
        ("plain", "few", (("--one-order",),)),
        ("address", "many", (("--one-order", "--cases=100"),)),  # of every size, layout and dtype by turns
        ("thread", "few", RUNS["thread"]),
    ],
)
def test_kernels_agree_with_the_definition(variant: str, blocks: str, runs: tuple[tuple[str, ...], ...]) -> None:
    """In three orders of threads, bit for bit the same; with a block for each part of a sample, and for several."""
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    csrc, folder = (CSRC, CACHE) if blocks == "many" else altered_sources("few_head_blocks", want_few_blocks)
    program = compile_program(CHECK, variant, csrc=csrc, folder=folder)
    for options in runs:
        assert_check_passes(program, *options)


def parameters_of(channels: int) -> list[Tensor]:
    shapes = ((16, channels), (16,), (16,), (16,), (4, 16), (4,))
    return [torch.randn(shape) * (0.3 if len(shape) > 1 else 0.5) for shape in shapes]


def by_torch(input: Tensor, parameters: list[Tensor], norm: tuple[Tensor, Tensor], training: bool) -> Tensor:
    """The linear shift; `norm`: running statistics, used, or in training brought up to date."""
    weight1, bias1, gain, offset, weight2, bias2 = parameters
    hidden = F.conv2d(input, weight1[..., None, None], bias1)
    hidden = F.batch_norm(hidden, *norm, gain, offset, training, 0.1, EPSILON).relu()
    scores = F.conv2d(hidden, weight2[..., None, None], bias2).flatten(2)
    v = (scores.softmax(2) * scores).sum(2)
    axis = v[:, :3] / (v[:, :3].norm(dim=1, keepdim=True) + 1e-8)
    angle = v[:, 3:].tanh() * torch.pi / 4
    shift: Tensor = 1 - angle * torch.linalg.cross(axis, torch.ones_like(axis))
    return shift


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [3, 24, 72])
def test_shift_and_gradients_are_those_of_torch(
    channels: int, memory_format: torch.memory_format, training: bool
) -> None:
    """Of torch's own layers and autograd in float64: another's definition."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    torch.manual_seed(channels)
    input = torch.randn(3, channels, 9, 11).contiguous(memory_format=memory_format)
    parameters, norm = parameters_of(channels), (torch.randn(16) * 0.1, torch.rand(16) + 0.5)
    doubles = [tensor.double().requires_grad_() for tensor in (input, *parameters)]
    theirs = norm[0].double(), norm[1].double()
    expected = by_torch(doubles[0], doubles[1:], theirs, training)
    grad, beside = torch.randn(3, 3), torch.randn_like(input)
    expected_grads = torch.autograd.grad(expected, doubles, grad.double())

    head, batches = EmulatedHead(), torch.tensor(0)
    running = (*norm, batches) if training else None
    given = None if training else norm
    shift, statistics, *used = head.predict_shift(input, parameters, given, EPSILON, False, running, 0.1)
    assert batches == training
    torch.testing.assert_close(norm, theirs, check_dtype=False)
    torch.testing.assert_close(shift, expected.detach(), check_dtype=False)
    mean, variance = used
    of_input, *others = head.predict_shift_backward(
        grad, input, parameters, (mean, variance), training, EPSILON, statistics, False, beside
    )
    torch.testing.assert_close(of_input, expected_grads[0] + beside, check_dtype=False, rtol=1e-4, atol=1e-5)
    assert of_input.stride() == input.stride()
    torch.testing.assert_close(others, [*expected_grads[1:]], check_dtype=False, rtol=1e-4, atol=1e-4)
    of_input, *others = head.predict_shift_backward(
        grad, input, parameters, (mean, variance), training, EPSILON, statistics, False, need_input=False
    )
    assert of_input.isnan().all()
    torch.testing.assert_close(others, [*expected_grads[1:]], check_dtype=False, rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_pixel_each_and_channels_last_pixels_of_a_larger_image() -> None:
    """Statistics over samples alone; and an input of which the pixels do not follow each other."""
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    parameters = parameters_of(16)
    larger = torch.randn(40, 16, 6, 8).contiguous(memory_format=torch.channels_last)
    for input in (larger[:, :, :1, :1], larger[:4, :, 1:5, 2:7]):
        shift, *_ = EmulatedHead().predict_shift(input, parameters, None, EPSILON, False)
        expected = by_torch(input.double(), [one.double() for one in parameters], (None, None), True)  # type: ignore[arg-type]
        torch.testing.assert_close(shift, expected, check_dtype=False)


def test_float64_is_refused() -> None:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    with pytest.raises(RuntimeError, match="the head has no kernels of float64"):
        EmulatedHead().predict_shift(torch.zeros(1, 4, 3, 3).double(), parameters_of(4), None, EPSILON, False)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("dtype", "channels_last", "channels", "side", "need_input"),
    [("float32", False, 40, 13, True), ("bfloat16", True, 288, 5, True), ("bfloat16", True, 3, 20, False)],
)
def test_launches_of_the_whole_head_are_those_of_the_launchers(
    direction: str, dtype: str, channels_last: bool, channels: int, side: int, need_input: bool
) -> None:
    reason = why_not("meter")
    if reason:
        pytest.skip(reason)
    sizes = 3, channels, side * side
    problem = whole_head_models.WholeHeadProblem(*sizes, dtype, channels_last, beside=need_input, need_input=need_input)
    of = whole_head_models.forward_launches if direction == "forward" else whole_head_models.backward_launches
    expected = of(problem, training=True)
    case = WholeHeadCase(3, channels, side, side, getattr(torch, dtype), channels_last, need_input)
    got = case.measure(direction)
    described = [[(one.kernel, one.blocks, one.threads) for one in launches] for launches in (got, expected)]
    assert described[0] == described[1] and len(got) == (3 if need_input and direction == "backward" else 2)
    for launch, wanted in zip(got, expected, strict=True):
        asked_for = sum(one.distinct_bytes for one in launch.arrays)
        assert sum(wanted.arrays.values()) == pytest.approx(asked_for, rel=0.02, abs=1000)
