"""The operators of the whole head: their contract with torch, threads, the kernels alone."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
import torch
from emulator.build import EMULATOR, SANITIZER_ENVIRONMENT, why_not
from emulator.cpu_build import cpu_program
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from crossd_ops import CrossDConv2d
from crossd_ops.operators import backends, plain_head
from crossd_ops.operators.plain_head import fused_type, plain_parts

CAPABILITIES = ["baseline", "avx2", "avx512"]
pytestmark = pytest.mark.usefixtures("compiled_library")


def arguments(samples: int, channels: int, rows: int, columns: int, *, training: bool = True) -> list[object]:
    """Of predict_shift."""
    parameters = [parameter.detach() for parameter in CrossDConv2d(channels, 4, 3).rotation_params.parameters()]
    given = (None, None) if training else (torch.randn(16), torch.rand(16) + 0.5)
    return [torch.randn(samples, channels, rows, columns), *parameters[:4], *given, 1e-5, *parameters[4:], True]


def backward_arguments(forward: list[object], *, need_input: bool = True, need_parameters: bool = True) -> list[object]:
    """Of predict_shift_backward after that forward pass."""
    shift, statistics, mean, variance = torch.ops.crossd_ops.predict_shift(*forward)
    training = forward[5] is None
    rest = [mean, variance, training, 1e-5, *forward[8:10], statistics, True, need_input, need_parameters]
    return [torch.randn_like(shift), *forward[:5], *rest]


@pytest.mark.parametrize("training", [True, False])
def test_contract_with_torch(training: bool) -> None:
    forward = arguments(2, 5, 6, 7, training=training)
    torch.library.opcheck(torch.ops.crossd_ops.predict_shift, tuple(forward))
    for needs in ((True, True), (False, True), (True, False)):
        backward = backward_arguments(forward, need_input=needs[0], need_parameters=needs[1])
        torch.library.opcheck(torch.ops.crossd_ops.predict_shift_backward, tuple(backward))


def test_results_beside_the_shift() -> None:
    forward = arguments(3, 5, 6, 7)
    input, weight1, bias1, gain, offset, _, _, _, weight2, bias2, _ = forward
    _, statistics, mean, variance = torch.ops.crossd_ops.predict_shift(*forward)
    hidden = torch.nn.functional.conv2d(input, weight1, bias1)
    torch.testing.assert_close(mean, hidden.mean((0, 2, 3)))
    torch.testing.assert_close(variance, hidden.var((0, 2, 3), unbiased=False))
    hidden = torch.nn.functional.batch_norm(hidden, None, None, gain, offset, True).relu()
    _, expected = torch.ops.crossd_ops.rotation_head(torch.nn.functional.conv2d(hidden, weight2, bias2), True)
    torch.testing.assert_close(statistics, expected)
    given = arguments(2, 5, 6, 7, training=False)
    mean, variance = torch.ops.crossd_ops.predict_shift(*given)[2:]
    assert torch.equal(mean, given[5]) and torch.equal(variance, given[6])
    assert mean.data_ptr() != given[5].data_ptr()


def replaced(values: list[object], index: int, value: object) -> list[object]:
    return [*values[:index], value, *values[index + 1 :]]


def test_arguments_are_checked() -> None:
    forward = arguments(2, 5, 3, 4)
    backward = backward_arguments(forward)
    head, head_backward = torch.ops.crossd_ops.predict_shift, torch.ops.crossd_ops.predict_shift_backward
    for call, values, text in (
        (
            head,
            replaced(forward, 0, torch.ones(2, 5, 3)),
            r"input: expected \(B, C, H, W\) of float32, bfloat16 or float16, got \(2, 5, 3\)",
        ),
        (head, replaced(forward, 0, forward[0].double()), r"input: expected \(B, C, H, W\) of float32"),
        (head, replaced(forward, 0, forward[0][:0]), r"input: expected at least one element, got \(0, 5, 3, 4\)"),
        (
            head,
            replaced(forward, 1, forward[1][:, :4]),
            r"weight1: expected \(16, 5, 1, 1\) of float32, bfloat16 or float16 on the device of input, got",
        ),
        (head, replaced(forward, 3, forward[3].double()), r"gain: expected \(16,\) of float32"),
        (head, replaced(forward, 5, torch.ones(16)), "mean: expected with variance, or neither"),
        (head, replaced(forward, 8, forward[8][:3]), r"weight2: expected \(4, 16, 1, 1\)"),
        (head_backward, replaced(backward, 0, torch.ones(3, 3)), r"grad_shift: expected \(2, 3\) .*, got \(3, 3\)"),
        (head_backward, replaced(backward, 6, torch.ones(4)), r"mean: expected \(16,\)"),
        (head_backward, replaced(backward, 7, torch.ones(16).half()), "variance: expected float32"),
        (head_backward, replaced(backward, 12, torch.ones(2, 4)), r"statistics: expected \(2, 4, 3\)"),
    ):
        with pytest.raises(ValueError, match=text):
            call(*values)


@pytest.mark.parametrize("shape", [(1, 3, 112, 112), (3, 5, 65, 33), (70, 20, 7, 7), (4, 40, 28, 28)], ids=str)
def test_threads_change_nothing(shape: tuple[int, ...]) -> None:
    before = torch.get_num_threads()
    results: list[list[Tensor]] = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            forward = arguments(*shape)
            backward = backward_arguments(forward)
            results.append(
                [
                    *torch.ops.crossd_ops.predict_shift(*forward),
                    *torch.ops.crossd_ops.predict_shift_backward(*backward),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, first) for one, first in zip(result, results[0], strict=True))


@pytest.mark.parametrize("variant", ["address", "thread"])
def test_kernels_under_sanitizers(variant: str) -> None:
    reason = why_not(variant)
    if reason:
        pytest.skip(reason)
    program = cpu_program(EMULATOR / "head_check.cpp", variant)
    # Who writes where does not depend on the instruction set, and ThreadSanitizer takes its time.
    for capability in CAPABILITIES if variant == "address" else CAPABILITIES[-1:]:
        environment = {**os.environ, **SANITIZER_ENVIRONMENT, "CROSSD_CPU_CAPABILITY": capability}
        process = subprocess.run([str(program)], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        assert process.stdout.splitlines()[-1].startswith("0 of ")


def test_a_forced_reference_runs_the_layers() -> None:
    head, input = CrossDConv2d(3, 4, 3).rotation_params, torch.randn(2, 3, 8, 9)
    parts = plain_parts(head)
    assert parts is not None and fused_type(input, *parts) is torch.float32
    with backends.use_backend("reference"):
        assert fused_type(input, *parts) is None


def test_tensors_of_a_gpu_are_taken_and_those_of_two_devices_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of fakes, as there may be no GPU: the kernels of which device are asked for, and all tensors on it."""
    asked: list[str] = []
    monkeypatch.setattr(plain_head, "_TENSORS", (FakeTensor,))
    monkeypatch.setattr(backends, "select", lambda device: asked.append(device) or backends.COMPILED)
    with FakeTensorMode():
        for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
            shapes = (16, 3, 1, 1), (16,), (16,), (16,), (4, 16, 1, 1), (4,), (16,), (16,)
            *parameters, mean, variance = (torch.empty(shape, device=device) for shape in shapes)
            buffers = {"running_mean": mean, "running_var": variance, "num_batches_tracked": None}
            norm = SimpleNamespace(_buffers=buffers, num_features=16)
            assert fused_type(torch.empty(2, 3, 8, 9, device=device), norm, parameters) is torch.float32
            assert fused_type(torch.empty(2, 3, 8, 9, device=other), norm, parameters) is None
    assert asked == ["cpu", "cuda"]
