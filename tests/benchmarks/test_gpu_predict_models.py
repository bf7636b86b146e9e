"""The models behind predicted rows: each operator's launches by hand, what has no model, and what is recorded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossd_ops
from benchmarks.gpu.measurements import cases, convolutions, networks
from benchmarks.gpu.parts import CALLS
from benchmarks.gpu.prediction import models
from benchmarks.gpu.prediction.bounds import BASES, predict
from benchmarks.gpu.prediction.compiled import fuse_elementwise
from benchmarks.gpu.prediction.general_launches import GeneralLaunch
from benchmarks.gpu.prediction.gpus import GPUS
from benchmarks.gpu.prediction.launches import Launch
from benchmarks.gpu.prediction.models import LibraryLaunch, UnknownOperator, launches_of, model
from benchmarks.gpu.prediction.rows import PREDICTED, launches_in, predicted_results, traced_step
from benchmarks.gpu.prediction.torch_models import FUSED
from benchmarks.gpu.prediction.trace import Call, gpu_stand_in, record
from crossd_ops import CrossDConv2d

pytestmark = pytest.mark.usefixtures("compiled_library")
H200 = GPUS["H200"]


def recorded(function: object, *tensors: Tensor, backward: bool = False) -> list[Call]:
    """What is dispatched with fakes like these tensors; or by the backward pass alone."""
    with gpu_stand_in():
        fakes = [torch.empty_strided(one.shape, one.stride(), dtype=one.dtype) for one in tensors]
        for fake, one in zip(fakes, tensors, strict=True):
            fake.requires_grad_(one.requires_grad)
        result, calls = record(lambda: function(*fakes))  # type: ignore[operator]
        if backward:
            wanted = [fake for fake in fakes if fake.requires_grad]
            _, calls = record(lambda: torch.autograd.grad(result, wanted, torch.empty_like(result)))
    return calls


def of_library(calls: list[Call]) -> list[LibraryLaunch]:
    found = [launch for launch, _ in launches_in(calls)]
    assert all(isinstance(launch, LibraryLaunch) for launch in found)
    return found  # type: ignore[return-value]


def test_an_operator_without_a_model_is_refused() -> None:
    calls = recorded(torch.erfinv, torch.ones(3))
    with pytest.raises(UnknownOperator, match=r"aten\.erfinv: no model says what it launches"):
        launches_in(calls)


def test_an_operator_has_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    model("aten.erfinv")(lambda call: [])
    with pytest.raises(ValueError, match=r"got aten\.add"):
        model("aten.lgamma", "aten.add")(lambda call: [])
    assert "aten.lgamma" not in models.MODELS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [3, 5])
def test_tap_major_gradients_of_kernels_have_a_kernel_of_their_own(dtype: torch.dtype, size: int) -> None:
    weight = torch.ones(16, 8, size, size, size, dtype=torch.promote_types(dtype, torch.float32))
    shift = torch.ones(4, 3, dtype=weight.dtype)
    dense, tap_major = torch.ones(4, 16, 8, size, size, dtype=dtype), torch.ones(4, size, size, 16, 8, dtype=dtype)

    def backward(grad: Tensor, weight: Tensor, shift: Tensor) -> object:
        return torch.ops.crossd_ops.fourier_shift_backward(grad, weight, shift, 0, 1, True, True)

    expected, got = (
        [launch for launch, _ in launches_in(recorded(backward, grad, weight, shift))]
        for grad in (dense, tap_major.movedim((1, 2), (3, 4)))
    )
    names = [launch.kernel for launch in got]
    wanted = "true>" if size == 3 and dtype is not torch.float64 else "false>" if size == 3 else f", {size}>"
    assert names[0].startswith("backward_") and names[0].endswith(wanted)
    assert [launch.moved for launch in got] == [launch.moved for launch in expected]  # type: ignore[union-attr]


def test_views_and_new_memory_cost_nothing_but_copies_do() -> None:
    def call(x: Tensor) -> Tensor:
        torch.empty_like(x)
        return x[:, :2].transpose(0, 1).contiguous().flatten().to(torch.float32)

    assert [(one.kernel, one.moved) for one in of_library(recorded(call, torch.ones(6, 4)))] == [("aten.clone", 96)]


def test_an_expanded_tensor_is_read_once() -> None:
    (one,) = of_library(recorded(lambda x, y: x + y.expand(8, 4), torch.ones(8, 4), torch.ones(4)))
    assert one.moved == 4 * (32 + 4 + 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_convolution_by_hand(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Two samples, 3 -> 5 channels, 3x3, 4x4 pixels, with a bias."""
    input, weight = torch.ones(2, 3, 4, 4, dtype=dtype), torch.ones(5, 3, 3, 3, dtype=dtype)
    input, weight = (one.contiguous(memory_format=layout).requires_grad_() for one in (input, weight))
    bias = torch.ones(5, dtype=dtype, requires_grad=True)
    size, unit = dtype.itemsize, {8: "float64", 4: "tf32", 2: "bfloat16"}[dtype.itemsize]
    of_input, of_weight, of_output, work = 96 * size, 135 * size, 160 * size, 160 * 27
    copies = unit != "float64" and layout is torch.contiguous_format
    call = lambda *tensors: F.conv2d(*tensors, padding=1)  # noqa: E731
    forward = of_library(recorded(call, input, weight, bias))
    assert [one.moved for one in forward if "layout" in one.kernel] == [2 * of_input, 2 * of_output] * copies
    product, last = forward[-2:]
    assert (product.moved, product.multiply_adds, product.unit) == (of_input + of_weight + of_output, work, unit)
    assert last.moved == 2 * of_output and not product.grouped
    backward = of_library(recorded(call, input, weight, bias, backward=True))
    products = [one for one in backward if one.multiply_adds]
    assert [(one.moved, one.multiply_adds) for one in products] == [(product.moved, work)] * 2
    assert len(backward) == 2 + 1 + 3 * copies


def test_a_grouped_convolution_is_told_apart_and_slower() -> None:
    input, weight = torch.ones(1, 6, 64, 64, dtype=torch.float64), torch.ones(4, 3, 3, 3, dtype=torch.float64)
    (grouped,) = of_library(recorded(lambda x, w: F.conv2d(x, w, groups=2), input, weight))
    assert grouped.grouped and grouped.multiply_adds == 4 * 62 * 62 * 27
    times = [predict(LibraryLaunch("a", 0, 10**9, "bfloat16", grouped=of_groups), H200) for of_groups in (False, True)]
    assert times[0].bounds["tensor"] == pytest.approx(1e9 / (790e12 / 2 * 0.75))
    assert times[1].bounds["tensor"] == pytest.approx(20 * times[0].bounds["tensor"])
    assert [one.basis for one in times] == [BASES[1], BASES[2]]


def test_products_normalisation_and_the_optimizer_by_hand() -> None:
    left, right = torch.ones(3, 4, 5), torch.ones(3, 5, 6)
    (product,) = of_library(recorded(torch.bmm, left, right))
    assert (product.moved, product.multiply_adds, product.unit) == (4 * (60 + 90 + 72), 360, "float32")
    map, mean = torch.ones(2, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True), torch.ones(3)
    norm = lambda x, w: F.batch_norm(x, None, None, w, w, training=True)  # noqa: E731
    assert [one.moved for one in of_library(recorded(norm, map, mean))] == [768, 2 * 768]
    assert [one.moved for one in of_library(recorded(norm, map, mean, backward=True))] == [2 * 768, 3 * 768]
    with gpu_stand_in():
        parameters = [nn.Parameter(torch.empty(65536 * 100)) for _ in range(4)]
        optimizer = torch.optim.AdamW(parameters, fused=True)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        _, calls = record(optimizer.step)
    found = of_library(calls)
    assert [one.kernel for one in found] == ["aten._foreach_add_", "aten._fused_adamw_", "aten._fused_adamw_"]
    assert sum(one.moved for one in found[1:]) == 7 * 4 * 65536 * 400


def test_each_launch_of_a_layer_is_there_once() -> None:
    """Of a convolution of 64 channels in evaluation of its head: what is in the library stands for its operator."""
    with gpu_stand_in():
        layer = CrossDConv2d(64, 64, 3, padding=1, bias=False)
        half = {"dtype": torch.bfloat16}
        narrow, few = CrossDConv2d(6, 64, 3, padding=1, bias=False, **half), torch.empty(8, 6, 32, 32, **half)
        image = torch.empty(8, 64, 32, 32)
        with torch.no_grad():
            _, calls = record(lambda: narrow(few))  # channels that are no vectors
            _, tiled = record(lambda: layer(image.contiguous(memory_format=torch.channels_last)))
            _, copied = record(lambda: layer(image))
    assert not [call for call in calls if call.operator.startswith("crossd_ops.convolution")]
    parts = Counter(call.part for call in calls if launches_of(call))
    launches = [launch for launch, part in launches_in(calls) if part == "shift"]
    assert [type(launch) for launch in launches] == [Launch] and launches[0].kernel.startswith("forward_cubic3<")
    assert parts["convolution"] == 2  # columns and their product, straight into the result
    (product,) = (one for one, _ in launches_in(calls) if getattr(one, "kernel", "") == "aten.bmm")
    assert isinstance(product, LibraryLaunch) and product.multiply_adds == 8 * 6 * 32 * 32 * 64 * 9
    (tiles,) = (one for one, part in launches_in(tiled) if part == "convolution")
    assert isinstance(tiles, Launch) and tiles.kernel.startswith("convolve_tiles")
    kernels = [one.kernel.partition("<")[0] for one, part in launches_in(copied) if part == "convolution"]
    assert kernels == ["aten.copy_", "convolve_tiles", "aten.copy_"]  # contiguous images to channels-last, and back


def test_a_step_names_whose_work_each_launch_is_and_copies_no_gradient() -> None:
    """Gradients become those of the parameters as they are: recording must not hold them."""
    plain, fused = (traced_step(networks.DRY_RUN_CASES[0], variant).launches for variant in ("plain", "fused"))
    parts = Counter(part for _, part in fused)
    assert set(parts) == {"shift", "head", "convolution", "norm", "optimizer", "rest"}
    assert {part for _, part in plain} == {"convolution", "norm", "optimizer", "rest"}
    # 17 layers above 1x1: kernels twice, the first's once, as images want no gradient; theirs; the sum of partial ones.
    # Of those with fewest pixels the weight is taken as it is.
    as_it_is = sum(launch.kernel.startswith("shifted_columns") for launch, part in fused if part == "convolution")
    assert 0 < as_it_is < 4 and parts["shift"] == 17 * 4 - 1 - as_it_is
    kernels = Counter(launch.kernel for launch, part in plain)
    assert kernels["aten.copy_"] == 1  # of the loss
    assert kernels["aten._native_batch_norm_legit, values"] == 20
    of_heads = Counter(launch.kernel.partition("<")[0] for launch, part in fused if part == "head")
    of_16 = {f"head_{name}": 16 for name in ("moments", "pool", "sums", "gradient", "join")}
    of_stem = {f"head_{name}_few": 1 for name in ("moments", "pool", "sums", "join")}
    assert of_heads == of_16 | of_stem


def test_a_compiler_makes_one_kernel_of_neighbours() -> None:
    """Which reads what others wrote, once, and writes what others read; a reduction may end it."""

    def call(x: Tensor, y: Tensor) -> Tensor:
        product = torch.mm((x + 1) * y, y.t())
        return torch.mm(product.neg().exp().sum(0, keepdim=True), product)

    calls = recorded(call, torch.ones(6, 4), torch.ones(6, 4))
    found = fuse_elementwise(calls)
    assert [one.operator for one in found] == [FUSED, "aten.mm", FUSED, "aten.mm"]
    assert [of_library(found)[place].moved for place in (0, 2)] == [4 * 3 * 24, 4 * (36 + 6)]
    (alone,) = fuse_elementwise(recorded(lambda x: x.neg().exp(), torch.ones(6)))
    assert of_library([alone])[0].moved == 4 * 12


GENERAL = {(2, 2, 2): 8, (4, 4, 4): 8, (6, 6, 6): 4, (3, 5, 7): 4}  # samples, as the table has them, of 4 x 2 pairs
TRAFFIC = Path(__file__).resolve().parents[1] / "kernels" / "kernel_traffic.json"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", GENERAL, ids=str)
def test_the_kernel_of_any_sizes_asks_for_what_the_emulator_has_counted(
    kernel: tuple[int, int, int], dtype: str
) -> None:
    def calls(weight: Tensor, shift: Tensor) -> Tensor:
        return crossd_ops.fourier_shift_slice(weight, shift, dtype=getattr(torch, dtype))

    tensors = torch.ones(4, 2, *kernel, requires_grad=True), torch.ones(GENERAL[kernel], 3, requires_grad=True)
    table = json.loads(TRAFFIC.read_text())["cases"]
    name = f"shift {'x'.join(map(str, kernel))}, {dtype}"
    for direction, backward in (("forward", False), ("backward", True)):
        launches = [launch for launch, _ in launches_in(recorded(calls, *tensors, backward=backward))]
        launch, counted = launches[0], table[f"{name}, {direction}"]
        assert isinstance(launch, GeneralLaunch) and [one.kernel for one in launches] == sorted(counted)
        entry = counted[launch.kernel]
        assert [launch.blocks, launch.threads] == [entry["launch"]["blocks"], entry["launch"]["threads"]]
        assert launch.wavefronts == entry["read shared"]["ideal"] + entry["write shared"]["ideal"]
        assert launch.moved == sum(one["bytes"] for one in entry.values() if "bytes" in one)
        bounds = predict(launch, H200).bounds
        assert min(bounds[bound] for bound in ("DRAM", "L2", "load-store", "issue", "arithmetic")) > 0


@pytest.mark.parametrize(("size", "dtype", "special"), [
    (3, torch.float32, True), (7, torch.float32, True), (7, torch.float64, False), (5, torch.float64, True),
    (6, torch.float32, False),
])  # fmt: skip
def test_only_some_sizes_have_kernels_of_their_own(size: int, dtype: torch.dtype, special: bool) -> None:
    weight, shift = torch.ones(8, 4, *[size] * 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    (found,) = launches_in(recorded(crossd_ops.fourier_shift, weight, shift))
    assert isinstance(found[0], Launch if special else GeneralLaunch)


def test_every_part_that_is_measured_is_predicted_with_the_same_rows() -> None:
    """In the sizes of a dry run."""
    assert set(PREDICTED) == set(CALLS["measure"])
    found = predicted_results(H200, ["bandwidth", "operators", "convolutions", "compiled"], dry_run=True)
    keys = [(row["operator"], row["shape"], row["dtype"], row["cudnn_benchmark"]) for row in found["operators"]["rows"]]
    made = [make() for make in cases.all_cases(torch.device("cpu"), dry_run=True)]
    expected = [(case.operator, case.shape, case.dtype, case.cudnn_benchmark) for case in made]
    assert keys[::2] == keys[1::2] == expected
    for case, row in zip(made, found["operators"]["rows"][::2], strict=True):
        assert list(row["candidates"]) == list(case.candidates)
        assert row["floor_bytes"] == case.floor_bytes.get("forward")
        assert all(one["launches"] > 0 and one["kernel_seconds"] > 0 for one in row["candidates"].values())
    (compiled, *_) = cases.compiled_cases(torch.device("cpu"), dry_run=True)
    assert list(found["compiled"]["rows"][0]["candidates"]) == list(compiled().candidates)
    assert len(found["convolutions"]["rows"]) == 2 * len(convolutions.problems(dry_run=True))
    assert found["bandwidth"]["copy_bytes_per_second"] > 0
