"""What stands for the library's own calls of torch, held against what the library itself dispatches.

Run as a program, where tensors of the CPU go the way of GPUs, it prints the latter.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.prediction.assumptions import GROUPED_RATE
from crossd_ops import crossd_conv2d, crossd_conv3d, sample_conv2d, sample_conv3d
from crossd_ops.library import loaded
from crossd_ops.tuning import choice

ROOT = Path(__file__).resolve().parents[2]
# What is compared: names in a profile and of a record.
NAMES = {"clone": "clone", "convolution": "convolution", "convolution_backward": "convolution_backward", "bmm": "bmm"}
NAMES |= {
    "copy_": "copy_",
    "cat": "cat",
    "new_zeros": "new_zeros",
    "subtract": "sub",
    "sub": "sub",
    "sum": "sum",
}

# By the method that they take: samples, channels in and out, sizes of the image, groups; stride, whether
# channels-last, with a bias, with all needs.
PROBLEMS: dict[str, tuple[int, int, int, tuple[int, ...], int, int, bool, bool, bool]] = {
    "grouped": (3, 16, 16, (12, 13), 16, 1, False, True, True),
    "grouped, channels-last": (3, 16, 16, (12, 13), 16, 1, True, False, True),
    "grouped, weight alone": (3, 16, 16, (12, 13), 16, 1, True, False, False),
    "matrix, few channels": (3, 4, 6, (21, 22), 1, 2, False, True, True),
    "matrix, few channels, channels-last": (3, 4, 6, (21, 22), 1, 1, True, False, True),
    "matrix": (3, 4, 6, (7, 8), 1, 1, False, True, True),
    "matrix, groups": (2, 16, 8, (14, 13), 2, 2, False, True, True),
    "matrix, channels-last": (2, 16, 6, (9, 8), 2, 1, True, False, True),
    "matrix, weight alone": (3, 16, 18, (12, 13), 1, 1, True, False, False),
    "matrix, volume": (2, 16, 4, (6, 5, 7), 1, 1, False, False, True),
    "matrix, half": (2, 16, 6, (9, 8), 2, 1, False, True, True),
    "matrix, half, channels-last": (3, 4, 6, (7, 8), 1, 1, True, False, True),
    "tiles": (2, 16, 32, (28, 28), 1, 1, True, True, True),  # in bfloat16
    "tiles, float32": (2, 16, 20, (28, 28), 1, 1, True, True, True),
    "tiles, padded": (2, 3, 16, (21, 28), 1, 2, True, True, True),
    "tiles, padded, half": (2, 3, 12, (21, 28), 1, 2, False, True, True),
    "tiles, padded, weight alone": (2, 5, 16, (21, 28), 1, 1, True, False, False),
    "tiles, groups": (2, 32, 16, (21, 28), 2, 2, True, False, True),
    "shared": (8, 64, 48, (2, 2), 1, 1, True, True, True),  # in bfloat16
    "shared, contiguous": (8, 16, 24, (2, 3), 1, 2, False, False, True),
    "shared, groups": (8, 64, 64, (2, 2), 2, 1, True, True, True),
    "shared, groups, half": (8, 64, 64, (2, 2), 2, 1, True, False, True),
    "shared, weight alone": (8, 64, 64, (2, 2), 1, 1, True, False, False),
    "one sample": (1, 16, 20, (12, 13), 1, 1, True, True, True),
}
HALF = ("matrix, half", "matrix, half, channels-last", "tiles", "tiles, padded, half", "tiles, groups", "shared")
HALF += ("shared, groups, half",)
GIVEN = "; given kernels"
# Kernels that are given have no weight that all samples share.
CALLS = [name + suffix for suffix in ("", GIVEN) for name in PROBLEMS if not (suffix and name.startswith("shared"))]
KERNELS = tuple(
    f"crossd_ops::{name}"
    for name in ("convolve_tiles", "tiles_", "image_to_shifted_columns", "shifted_columns_gradient", "seen_to_image")
)
OPERATORS = ("crossd_ops::convolution", "crossd_ops::sample_convolution")


def tensors(name: str) -> tuple[list[torch.Tensor], dict[str, int]]:
    problem = name.removesuffix(GIVEN)
    samples, inputs, outputs, sizes, groups, stride, channels_last, with_bias, all_needs = PROBLEMS[problem]
    dtype = torch.bfloat16 if problem in HALF else torch.float32
    image = torch.ones(samples, inputs, *sizes, dtype=dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    if name.endswith(GIVEN):
        found = [image, torch.ones(samples, outputs, inputs // groups, *[3] * len(sizes), dtype=dtype)]
    else:
        weight, shift = torch.ones(outputs, inputs // groups, 3, 3, 3, dtype=dtype), torch.ones(samples, 3)
        found = [image, weight, shift.requires_grad_(all_needs)]
    found[0].requires_grad_(all_needs)
    found[1].requires_grad_()
    if with_bias:
        found.append(torch.ones(outputs, dtype=dtype))
    return found, {"stride": stride, "padding": 1, "groups": groups}


def convolve(name: str, image: torch.Tensor, *others: torch.Tensor, **numbers: int) -> torch.Tensor:
    of_images, of_volumes = (sample_conv2d, sample_conv3d) if name.endswith(GIVEN) else (crossd_conv2d, crossd_conv3d)
    return (of_images if image.dim() == 4 else of_volumes)(image, *others, **numbers)


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """Inside the `with` block the problem takes the method of its name: by costs such small ones would take others."""
    method = name.removesuffix(GIVEN).partition(",")[0]
    (image, weight, *others), numbers = tensors(name)
    shift = None if name.endswith(GIVEN) else others[0]
    place = [numbers["stride"], numbers["padding"], 1, numbers["groups"]]
    keys = [choice.explain(image, weight, shift, place, backward=way, on_gpu=True).key for way in (False, True)]
    for key in keys:
        choice.set_method(key, method if method in choice.METHODS else None)
    try:
        yield
    finally:
        for key in keys:
            choice.set_method(key, None)


def dispatched(name: str) -> list[list[Any]]:
    """Forward and backward: operators and the sizes of their first tensor, in order of their names."""
    arguments, numbers = tensors(name)
    with forced(name), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        output = convolve(name, *arguments, **numbers)
        output.backward(torch.ones_like(output))
    found = []
    for event in profiler.events():
        operator = NAMES.get(event.name.removeprefix("aten::"))
        above = event.cpu_parent
        while above is not None and not above.name.startswith(OPERATORS):
            # What does the work of a GPU's kernels where there are none is not theirs.
            if above.name.removeprefix("aten::") in NAMES or above.name.startswith(KERNELS):
                break
            above = above.cpu_parent
        if operator and above is not None and above.name.startswith(OPERATORS):
            found.append([operator, event.input_shapes[0]])
    return sorted(found, key=str)


@pytest.fixture(scope="module")
def of_library() -> dict[str, list[list[Any]]]:
    if loaded.load_error:
        pytest.skip(loaded.load_error)
    environment = {**os.environ, "CROSSD_CONVOLUTION_BRANCH": "gpu", "PYTHONPATH": str(ROOT)}
    environment.pop("CROSSD_CONVOLUTION_METHOD", None)
    process = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    found: dict[str, list[list[Any]]] = json.loads(process.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", CALLS)
def test_the_composition_calls_what_the_library_calls(name: str, of_library: dict[str, list[list[Any]]]) -> None:
    from benchmarks.gpu.prediction.trace import gpu_stand_in, record

    with forced(name), gpu_stand_in():
        arguments, numbers = tensors(name)
        output, forward = record(lambda: convolve(name, *arguments, **numbers))
        wanted = [one for one in arguments if one.requires_grad]
        _, backward = record(lambda: torch.autograd.grad(output, wanted, torch.ones_like(output)))
    calls = [call for call in (*forward, *backward) if call.operator.removeprefix("aten.") in NAMES.values()]
    found = [
        [call.operator.removeprefix("aten."), [] if call.operator == "aten.cat" else list(call.arrays[0].sizes)]
        for call in calls
        if call.part == "convolution"
    ]
    assert sorted(found, key=str) == of_library[name]
    method = name.removesuffix(GIVEN).partition(",")[0]
    names = [operator for operator, _ in found]
    in_float32 = tensors(name)[0][0].dtype is torch.float32
    assert ("bmm" in names) == (method in ("matrix", "shared") and not in_float32)
    shared = [call.operator.partition(".")[2] for call in (*forward, *backward) if "shifted" in call.operator]
    back = ["image_to_shifted_columns"] if "alone" in name else ["shifted_columns_gradient", "image_to_shifted_columns"]
    assert sorted(shared) == sorted(["image_to_shifted_columns", *back] if method == "shared" else [])
    tiles = [call.operator.partition(".")[2] for call in (*forward, *backward) if "tiles" in call.operator]
    of_all = ["convolve_tiles", *([] if "alone" in name else ["tiles_input_gradient"]), "tiles_kernels_gradient"]
    if method == "matrix" and in_float32:  # whose products may be any of these
        assert len(tiles) == len(of_all)
    else:
        assert tiles == (of_all if method == "tiles" else [])
    assert "cat" not in names


def test_the_figures_of_the_choice_are_those_of_the_library() -> None:
    """The rate of grouped convolutions is a guess, and one guess: what it predicts and what is chosen agree."""
    source = (ROOT / "csrc" / "convolution" / "gpu_costs.h").read_text()
    found = re.search(r"constexpr double kGroupedShare = ([\d.]+) / (\d+);", source)
    assert found is not None and float(found[1]) / float(found[2]) == GROUPED_RATE.value


if __name__ == "__main__":
    print(json.dumps({name: dispatched(name) for name in CALLS}))
