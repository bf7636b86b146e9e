"""Wrong, odd and huge arguments to every public function: refused in words, or computed right, and nothing is changed.

The texts of the errors are checked in test_errors.py and beside each module; here every argument of every function
gets what does not belong there. ``CROSSD_LARGE=1`` runs more calls with more than 2^31 elements.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_arguments import BIAS, FUNCTIONS, IMAGES, NOT_HERE, SHIFT, VOLUMES, WEIGHT
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import crossd_ops
from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv2dEarly, CrossDConv3d, conversion, planes

WRONG = [
    (function, name, value) for function, (_, _, table) in FUNCTIONS.items() for name in table for value in table[name]
]

pytestmark = pytest.mark.usefixtures("compiled_library")


def described(value: Any) -> str:
    """An id that is the same in every process."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {value.device}"
    return "object" if type(value) is object else repr(value)[:30]


def test_every_public_name_is_tried() -> None:
    of_planes = {"random_plane", "set_plane", "sum_of_planes"}
    assert set(FUNCTIONS) | set(NOT_HERE) == {*crossd_ops.__all__, *conversion.__all__, *of_planes}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_that_do(function: str) -> None:
    call, arguments, _ = FUNCTIONS[function]
    try:
        call(**arguments())
    finally:
        crossd_ops.operators.backends.forced = None  # use_backend was entered and not left


@pytest.mark.parametrize(("function", "name", "value"), WRONG, ids=[f"{f}-{n}-{described(v)}" for f, n, v in WRONG])
def test_one_wrong_argument_is_refused_in_words(function: str, name: str, value: Any) -> None:
    call, arguments, _ = FUNCTIONS[function]
    given = arguments()
    before = {key: item.clone() for key, item in given.items() if isinstance(item, Tensor)}
    with pytest.raises((ValueError, TypeError)) as error:
        call(**{**given, name: value})
    assert "expected" in str(error.value), str(error.value)
    assert all(torch.equal(item, given[key]) for key, item in before.items())
    assert crossd_ops.backend() == "compiled"


META_CASES = [(4, 2, 3), (0, 2, 3), (4, 0, 3), (2**20, 2**12, 3), (2**33, 1, 3), (2**31, 2**16, 3)]


@pytest.mark.parametrize("sizes", META_CASES, ids=str)
@pytest.mark.parametrize("samples", [0, 2, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_meta_tensors_have_the_shapes_of_any_size(
    sizes: tuple[int, int, int], samples: int, dtype: torch.dtype
) -> None:
    """No memory is needed to know a shape, also where its product passes 2^31, unless torch itself cannot count it."""
    out_channels, in_channels, kernel = sizes
    elements = samples * out_channels * in_channels * kernel**3
    weight = torch.empty(out_channels, in_channels, kernel, kernel, kernel, dtype=dtype, device="meta")
    shift = torch.empty(samples, 3, device="meta")
    if elements * dtype.itemsize >= 2**63:
        with pytest.raises(RuntimeError):
            crossd_ops.fourier_shift(weight, shift)
        return
    assert crossd_ops.fourier_shift(weight, shift).shape == (samples, *weight.shape)
    out = crossd_ops.fourier_shift_slice(weight, shift, dim=1, dtype=torch.float16)
    assert (out.shape, out.dtype) == ((samples, out_channels, in_channels, kernel, kernel), torch.float16)


def test_fake_and_meta_tensors_have_the_shapes_of_real_ones() -> None:

    def volumes(images: Tensor) -> Tensor:
        return images[:, :, None].repeat(1, 1, 4, 1, 1)

    calls: list[Callable[..., Tensor]] = [
        lambda input, weight, shift: crossd_ops.fourier_shift(weight, shift),
        lambda input, weight, shift: crossd_ops.fourier_shift_slice(weight.transpose(0, 1), shift, dim=2),
        lambda input, weight, shift: crossd_ops.crossd_conv2d(input, weight, shift, padding=1),
        lambda input, weight, shift: crossd_ops.crossd_conv2d(
            input.to(memory_format=torch.channels_last), weight, shift
        ),
        lambda input, weight, shift: crossd_ops.crossd_conv3d(volumes(input), weight, shift),
        lambda input, weight, shift: crossd_ops.rotation_shift(shift, shift[:, 0], rotation="exact"),
        lambda input, weight, shift: planes.sum_of_planes(weight),
        lambda input, weight, shift: CrossDConv2d(2, 4, 3, device=input.device)(input),
        lambda input, weight, shift: CrossDConv3d(2, 4, 3, device=input.device)(volumes(input)),
    ]
    for call in calls:
        real = call(IMAGES, WEIGHT, SHIFT)
        with FakeTensorMode() as mode:
            fake = call(*(mode.from_tensor(tensor) for tensor in (IMAGES, WEIGHT, SHIFT)))
        assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)
        assert fake.stride() == real.stride()
        meta = call(*(tensor.to("meta") for tensor in (IMAGES, WEIGHT, SHIFT)))
        assert (meta.shape, meta.dtype, meta.device.type) == (real.shape, real.dtype, "meta")


def available_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


if_asked = pytest.mark.skipif(os.environ.get("CROSSD_LARGE") != "1", reason="takes a minute: CROSSD_LARGE=1")


@pytest.mark.skipif(available_bytes() < 10 << 30, reason="takes 5 GB: needs 10 GB of free memory")
@pytest.mark.parametrize(("out_channels", "samples"), [pytest.param(2**28 + 5, 1, marks=if_asked), (2**15, 2**13 + 1)])
def test_more_elements_than_32_bits_count(out_channels: int, samples: int) -> None:
    """Pairs, or samples, that lie beyond 2^31 elements of the output are those of a small problem."""
    pair, shift = torch.randn(1, 1, 3, 3, 3, dtype=torch.bfloat16), torch.randn(samples, 3)
    weight = pair.expand(out_channels, 1, 3, 3, 3)  # one pair for all: its memory is small
    out = crossd_ops.fourier_shift_slice(weight, shift)
    assert out.numel() > 2**31
    last = crossd_ops.fourier_shift_slice(pair, shift[-1:])
    assert torch.equal(out[-1, -1000:], last[0].expand(1000, 1, 3, 3))
    grad = torch.ones(1, 1, 1, 1, 1, dtype=torch.bfloat16).expand(out.shape)
    del out
    _, grad_shift = torch.ops.crossd_ops.fourier_shift_backward(grad, weight, shift, 0, 1, False, True)
    one = torch.ops.crossd_ops.fourier_shift_backward(grad[-1:, :1], pair, shift[-1:], 0, 1, False, True)[1]
    torch.testing.assert_close(grad_shift[-1:], one * out_channels, rtol=1e-3, atol=1e-3)


def test_a_map_of_more_pixels_than_32_bits_count() -> None:
    """A few pixels that share their memory with all: as many of each, so that the weighted mean is that of the few."""
    few = torch.randn(1, 4, 1, 7)
    many = few.expand(1, 4, 2**29 // 7 + 1, 7)
    assert many.numel() > 2**31
    shift, statistics = torch.ops.crossd_ops.rotation_head(many, True)
    expected, of_few = torch.ops.crossd_ops.rotation_head(few, True)
    torch.testing.assert_close(shift, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(statistics[..., 1], of_few[..., 1] * many.shape[2], rtol=1e-3, atol=0)


@pytest.mark.parametrize("sizes", [(2**40, 2**10, 3), (2**20, 2**40, 15)], ids=str)
@pytest.mark.parametrize("layer", [CrossDConv2d, CrossDConv3d])
def test_layers_that_fit_nowhere(layer: type[nn.Module], sizes: tuple[int, int, int]) -> None:
    """Torch's own refusal of sizes that no memory has, or whose product no integer counts."""
    with pytest.raises((RuntimeError, OverflowError)):
        layer(*sizes)


@pytest.mark.parametrize("name", ["weight", "shift", "input", "grad"])
def test_memory_that_overlaps_is_read(name: str) -> None:
    """Expanded tensors, whose elements share memory, as arguments and as the gradient that comes in."""
    weight, shift, input = WEIGHT, SHIFT, IMAGES
    if name == "weight":
        weight = torch.randn(1, 1, 3, 1, 3).expand(4, 2, 3, 3, 3)
    if name == "shift":
        shift = torch.randn(1, 1).expand(2, 3)
    if name == "input":
        input = torch.randn(1, 1, 6, 1).expand(2, 2, 6, 6)
    leaves = [tensor.clone().requires_grad_() for tensor in (input, weight, shift)]
    shared = [tensor.detach().requires_grad_() for tensor in (input, weight, shift)]
    outs = [crossd_ops.crossd_conv2d(*arguments) for arguments in (leaves, shared)]
    torch.testing.assert_close(outs[1], outs[0])
    grad = torch.randn(1, 1, 1, 4).expand_as(outs[0]) if name == "grad" else torch.ones_like(outs[0])
    expected = torch.autograd.grad(outs[0], leaves, grad.contiguous())
    torch.testing.assert_close(torch.autograd.grad(outs[1], shared, grad), expected)


def test_grad_modes_mix() -> None:
    """Tensors made in inference mode, in and out of it, with and without gradients, as torch's own functions do."""
    weight = WEIGHT.clone().requires_grad_()
    expected = crossd_ops.crossd_conv2d(IMAGES, weight, SHIFT).detach()
    with torch.inference_mode():
        made_there = SHIFT.clone()
        inside = crossd_ops.crossd_conv2d(IMAGES, weight, made_there)
        assert inside.is_inference() and torch.equal(inside, expected)
        with torch.inference_mode(False), torch.enable_grad():
            assert crossd_ops.crossd_conv2d(IMAGES, weight, SHIFT).requires_grad
    assert torch.equal(crossd_ops.crossd_conv2d(IMAGES, WEIGHT, made_there), expected)
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"):  # torch's own refusal to save it for backward
        crossd_ops.crossd_conv2d(IMAGES, weight, made_there)
    with torch.no_grad():
        assert not crossd_ops.crossd_conv2d(IMAGES, weight, SHIFT).requires_grad


def test_nothing_is_written_to_arguments() -> None:
    arguments = [IMAGES.clone(), WEIGHT.clone(), SHIFT.clone(), BIAS.clone()]
    versions = [argument._version for argument in arguments]
    leaves = [argument.requires_grad_() for argument in arguments]
    crossd_ops.crossd_conv2d(*leaves).square().sum().backward()
    assert [argument._version for argument in arguments] == versions
    for argument, original in zip(arguments, (IMAGES, WEIGHT, SHIFT, BIAS), strict=True):
        assert torch.equal(argument, original)


@pytest.mark.parametrize(
    "layer",
    [lambda: CrossDConv2d(2, 4, 3), lambda: CrossDConv2dEarly(2, 4, 3), lambda: ACSConv3d(2, 4, 3),
     lambda: CrossDConv3d(2, 4, 3)],
    ids=["CrossDConv2d", "CrossDConv2dEarly", "ACSConv3d", "CrossDConv3d"],
)  # fmt: skip
def test_layers_refuse_what_is_no_input(layer: Callable[[], nn.Module]) -> None:
    module = layer()
    for wrong in (None, 3, "text", IMAGES.int(), torch.zeros(2, 7, 5, 6, 6), torch.zeros(2, 7)):
        with pytest.raises((ValueError, TypeError)) as error:
            module(wrong)
        assert "expected" in str(error.value), (wrong, str(error.value))
    with pytest.raises((RuntimeError, TypeError), match="type"):  # torch's, of a plain convolution
        module((VOLUMES if "3d" in type(module).__name__ else IMAGES).double())


def test_fixed_shifts_that_are_none_are_refused_and_conversions_are_torchs() -> None:
    layer = CrossDConv2d(2, 4, 3)
    for wrong in (1.0, SHIFT, SHIFT[0, :2], SHIFT[0].int()):
        with pytest.raises((ValueError, TypeError), match="shift: expected"):
            layer.fix_shift(wrong)  # type: ignore[arg-type]
    layer.fix_shift(SHIFT[0])
    half = layer.half()
    assert half.fixed_shift is not None and torch.equal(half.fixed_shift, SHIFT[0])

    def fails(tensor: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        layer._apply(fails)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_head_of_no_effect_asks_for_gradients_of_its_parameters_alone(frozen: bool) -> None:
    layer = CrossDConv2d(2, 4, 1)
    layer.rotation_params.requires_grad_(not frozen)
    layer(IMAGES).sum().backward()
    grads = [parameter.grad for parameter in layer.rotation_params.parameters()]
    assert all(grad is None if frozen else grad is not None and not grad.any() for grad in grads)
    assert layer.weights_3d.grad is not None
