"""The calls under the sanitizers reach every way that the CUDA kernels have to move memory: asked of the launchers."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from emulator.build import why_not
from emulator.harness import BackwardProblem, EmulatedBackend, ForwardProblem
from torch import Tensor

from benchmarks.gpu.kernel_calls import CHANNELS, all_calls
from benchmarks.gpu.prediction.trace import gpu_stand_in, record

CPU = torch.device("cpu")
DTYPES = ["float64", "float32", "bfloat16", "float16"]
TYPES = [("float64", "float64"), *(("float32", out) for out in DTYPES[1:]), *((half, half) for half in DTYPES[2:])]
BLOCK = 32  # pairs; one that is not full moves element by element

# A kernel: direction, size, whether it makes the whole weight, types of the weight and of the other tensor.
Kernel = tuple[str, int, bool, str, str]


class Launchers(EmulatedBackend):
    """Asks the launchers how the tensors of each call move, by kernel and tensor, and runs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: defaultdict[tuple[Kernel, str], set[str]] = defaultdict(set)
        self.samples: defaultdict[Kernel, set[int]] = defaultdict(set)

    def _run(self, direction: str, problem: ForwardProblem | BackwardProblem, **_: Tensor) -> None:
        shape, size, vectors = problem.shape, self.special_size(problem), self.vectors(problem)
        forward = isinstance(problem, ForwardProblem)
        other = "out" if forward else "grad"
        dtype = problem.out_dtype if forward else problem.grad_dtype
        kernel = (direction, size, shape.slices > 1, DTYPES[problem.weight_dtype], DTYPES[dtype])
        self.samples[kernel].add(shape.samples)
        pairs = shape.out_channels * shape.in_channels
        for tensor in ("weight", other) if forward else ("weight", other, "grad_weight"):
            # The slices of a pair lie together; the kernels of 5 and 7 make one at a time.
            wide = tensor in vectors and not (tensor == other and shape.slices > 1 and size in (5, 7))
            if wide and pairs >= BLOCK:
                self.moves[kernel, tensor].add("vectors")
            if not wide or pairs % BLOCK:
                self.moves[kernel, tensor].add("elements")


@pytest.fixture(scope="module")
def launchers() -> Launchers:
    reason = why_not("plain")
    if reason:
        pytest.skip(reason)
    launchers = Launchers()
    for name, call in all_calls(launchers, CPU, few=False):
        if name.startswith("fourier_shift"):
            call()
    return launchers


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("whole", [False, True], ids=["slice", "whole"])
def test_every_kernel_moves_every_tensor_in_vectors_and_by_elements(
    launchers: Launchers, size: int, whole: bool
) -> None:
    tensors = {"forward": ("weight", "out"), "backward": ("weight", "grad", "grad_weight")}
    for direction, names in tensors.items():
        for weight, other in TYPES[size == 7 :]:  # 7 has no kernel of its own in float64
            for tensor in names:
                by_elements_alone = whole and size > 3 and tensor in ("out", "grad")
                expected = {"elements"} if by_elements_alone else {"vectors", "elements"}
                kernel = (direction, size, whole, weight, other)
                assert launchers.moves[kernel, tensor] == expected, (kernel, tensor)


def test_the_general_kernels_meet_every_type(launchers: Launchers) -> None:
    met = {kernel for kernel in launchers.samples if kernel[1] == 0}
    assert met == {(direction, 0, whole, *types) for direction in ("forward", "backward") for whole in (False, True)
                   for types in TYPES}  # fmt: skip


def test_every_kernel_meets_few_samples_and_more_than_its_shared_memory_holds(launchers: Launchers) -> None:
    """Of 8 on, and of 16 on, two and four warps share them in turn; 32 fill the shared memory of the largest turn."""
    for kernel, samples in launchers.samples.items():
        assert min(samples) < 8 and max(samples) > 32, kernel
        assert any(8 <= count < 16 for count in samples), kernel


def test_planes_are_multiples_of_a_vector_and_not() -> None:
    """Of every type; with one block that is full and one that is not."""
    for size in (3, 5, 7):
        for bytes_of_element in (2, 4, 8):
            rest = {channels: channels[0] * channels[1] * size**2 * bytes_of_element % 16 for channels in CHANNELS}
            assert rest[7, 11] and not rest[8, 13] and not rest[40, 4]


@pytest.mark.usefixtures("compiled_library")
def test_columns_are_made_and_taken_back_in_every_type_and_layout() -> None:
    """Of a stride that has several phases too; of more channels than a tile, and of fewer than fill one."""
    seen = set()
    with gpu_stand_in():
        for name, call in all_calls(torch.ops.crossd_ops, CPU, few=False):
            if name.startswith("convolution"):
                _, calls = record(call)
                found = {one.operator.partition(".")[2]: one for one in calls}
                image, back = found["image_to_columns"].arrays[0], found["columns_to_image"].results[0]
                assert (image.channels_last, image.sizes) == (back.channels_last, back.sizes)
                stride = 1 if name.endswith("1") else 2
                seen.add((image.dtype, image.channels_last, image.sizes[1] > BLOCK, stride))
    kinds = ((False, False), (True, False), (True, True))
    assert seen == {(dtype, *kind, stride) for dtype in DTYPES for kind in kinds for stride in (1, 2)}


@pytest.mark.usefixtures("compiled_library")
def test_tiles_are_made_and_taken_back() -> None:
    """Of strides too, and where blocks share the pixels of a sample; float32 rounded."""
    seen = {}
    with gpu_stand_in():
        for name, call in all_calls(torch.ops.crossd_ops, CPU, few=False):
            if name.startswith("tiles"):
                _, calls = record(call)
                operators = [one.operator.partition(".")[2] for one in calls]
                seen[name] = [operator for operator in operators if "tiles" in operator]
    operators = ["convolve_tiles", "tiles_input_gradient", "tiles_kernels_gradient"]
    assert seen == {f"tiles {dtype} {stride}": operators for dtype in DTYPES[1:] for stride in (1, 2)}


@pytest.mark.usefixtures("compiled_library")
def test_the_weight_is_taken_as_it_is() -> None:
    """In every type and layout, of images and volumes, and of sizes with kernels of their own and without."""
    columns, back = ["image_to_shifted_columns"], ["shifted_columns_gradient", "seen_to_image"]
    seen = set()
    with gpu_stand_in():
        for name, call in all_calls(torch.ops.crossd_ops, CPU, few=False):
            if name.startswith("shared"):
                _, calls = record(call)
                found = [one for one in calls if one.operator.partition(".")[2] in columns + back]
                image = found[0]["image"]
                # A convolution of float32 takes both of its gradients at once.
                names = columns * 2 + back if image.dtype == "float32" else columns + back + columns
                assert [one.operator.partition(".")[2] for one in found] == names, name
                cubic = found[0]["weight"] == [3, 3, 3]
                seen.add((image.dtype, len(image.sizes) - 2, cubic, image.sizes[1] % 2 == 0))
    kinds = ((2, True, True), (2, True, False), (2, False, True), (3, True, True), (3, False, False))
    assert seen == {(dtype, *kind) for dtype in DTYPES for kind in kinds}


class RecordedHeads:
    """Notes how the maps of the calls lie, and how their gradients lie beside them."""

    def __init__(self) -> None:
        self.seen: defaultdict[torch.dtype, set[tuple[str, str]]] = defaultdict(set)

    def rotation_head(self, scores: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
        of_type = torch.float64 if scores.dtype is torch.float64 else torch.float32
        return torch.zeros(len(scores), 3, dtype=of_type), torch.zeros(len(scores), 4, 3, dtype=of_type)

    def rotation_head_backward(self, grad: Tensor, scores: Tensor, statistics: Tensor, exact: bool) -> None:
        _, _, height, width = scores.shape
        orders = {(height * width, width, 1): "planar", (1, 4 * width, 4): "interleaved"}
        gradient = torch.empty_like(scores)
        apart = (scores.data_ptr() - gradient.data_ptr()) % 16
        self.seen[scores.dtype].add((orders.get(scores.stride()[1:], "strided"), "apart" if apart else "together"))


def test_maps_lie_in_every_order_aligned_as_their_gradients_and_not() -> None:
    recorded = RecordedHeads()
    for name, call in all_calls(recorded, CPU, few=False):
        if name.startswith("rotation_head"):
            call()
    usual = {("planar", "together"), ("planar", "apart"), ("interleaved", "together"), ("strided", "together")}
    assert recorded.seen.keys() == {getattr(torch, dtype) for dtype in DTYPES}
    for dtype, seen in recorded.seen.items():
        # Four elements of 4 bytes, a pixel, are a whole vector.
        assert seen == usual | ({("interleaved", "apart")} if dtype.itemsize == 2 else set()), dtype
