"""Wrong, odd and huge arguments to every public function: refused in words, or computed right, and nothing is changed.

The texts of the errors are checked in test_errors.py and beside each module; here every argument of every function
gets what does not belong there. ``CROSSD_LARGE=1`` allocates tensors of more than 2^31 elements.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import crossd_ops
from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv2dEarly, CrossDConv3d

WEIGHT, SHIFT, BIAS = torch.randn(4, 2, 3, 3, 3), torch.randn(2, 3), torch.randn(4)
IMAGES, VOLUMES = torch.randn(2, 2, 6, 6), torch.randn(2, 2, 5, 6, 6)
META = torch.zeros(2, 3, device="meta")

NO_TENSOR = (None, 1.5, "text", [1.0, 2.0], object())
NO_SHIFT = (*NO_TENSOR, SHIFT.int(), SHIFT.bool(), SHIFT.to(torch.complex64), SHIFT[0], SHIFT[..., None], SHIFT[:, :2],
            torch.zeros(2, 4), torch.tensor(1.0), META)  # fmt: skip
NO_WEIGHT = (*NO_TENSOR, WEIGHT.long(), WEIGHT.to(torch.complex64), WEIGHT[0], WEIGHT[None],
             torch.zeros(4, 2, 3, 16, 3), torch.zeros(4, 2, 0, 3, 3))  # fmt: skip
NO_INPUT = (*NO_TENSOR, IMAGES.int(), IMAGES[0], torch.zeros(2, 3, 6, 6), torch.zeros(3, 2, 6, 6), IMAGES.to("meta"))
NO_VOLUME = (*NO_TENSOR, VOLUMES.int(), VOLUMES[0], torch.zeros(2, 3, 5, 6, 6), IMAGES)
NO_BIAS = (1.5, "text", BIAS.int(), BIAS[:3], BIAS[:, None], BIAS.to("meta"))
NO_GROUPS = (0, -1, 3, 2**40, 1.0, "1", None)
NO_PADDING = (None, "text", 1.5, (1, 1, 1, 1, 1), (1.5, 1), object(), -1, (-1, 0))
NO_STRIDE = (*NO_PADDING, 0)
NO_CHANNELS = (0, -1, 1.5, "2", None)
NO_SIZE = (0, -1, 16, 1.5, "text", None, (3, 3, 3, 3), (3, 0))
NO_MODEL = (None, 3, "text", WEIGHT, {})
CONVOLUTION = {"shift": NO_SHIFT, "weight": NO_WEIGHT, "bias": NO_BIAS, "groups": NO_GROUPS, "stride": NO_STRIDE,
               "padding": NO_PADDING, "dilation": NO_STRIDE}  # fmt: skip
NO_NAME = ("text", None, 1)
LAYER = {"in_channels": NO_CHANNELS, "out_channels": (-1, 1.5, "2", None), "kernel_size": NO_SIZE, "stride": NO_STRIDE,
         "padding": NO_PADDING, "dilation": NO_STRIDE, "groups": NO_GROUPS, "padding_mode": NO_NAME,
         "rotation": NO_NAME}  # fmt: skip


def network() -> nn.Sequential:
    return nn.Sequential(CrossDConv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))


def volume_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU())


Arguments = dict[str, Any]
# Of each function: arguments that do, as functions of nothing where they may be changed, and what each must not be.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], Arguments], dict[str, tuple[Any, ...]]]] = {
    "rotation_shift": (
        crossd_ops.rotation_shift,
        lambda: {"axis": SHIFT, "angle": SHIFT[:, 0]},
        {"axis": NO_SHIFT, "angle": (*NO_TENSOR, SHIFT[:, 0].int(), SHIFT, SHIFT[:1, 0], META[:, 0]),
         "rotation": NO_NAME},
    ),
    "fourier_shift": (
        crossd_ops.fourier_shift,
        lambda: {"weight": WEIGHT, "shift": SHIFT},
        {"weight": NO_WEIGHT, "shift": NO_SHIFT, "dtype": (torch.int8, torch.bool, torch.complex64, "float32", 32)},
    ),
    "fourier_shift_slice": (
        crossd_ops.fourier_shift_slice,
        lambda: {"weight": WEIGHT, "shift": SHIFT},
        {"weight": NO_WEIGHT, "shift": NO_SHIFT, "dim": (3, -4, 2**63, 1.0, "1", None, SHIFT),
         "index": (3, -4, 2**63, 1.0, "1", SHIFT)},
    ),
    "crossd_conv2d": (
        crossd_ops.crossd_conv2d,
        lambda: {"input": IMAGES, "weight": WEIGHT, "shift": SHIFT},
        {"input": (*NO_INPUT, VOLUMES), "dim": (3, 1.0), "index": (3, "1"), **CONVOLUTION},
    ),
    "crossd_conv3d": (
        crossd_ops.crossd_conv3d,
        lambda: {"input": VOLUMES, "weight": WEIGHT, "shift": SHIFT},
        {"input": NO_VOLUME, **CONVOLUTION},
    ),
    "CrossDConv2d": (
        CrossDConv2d,
        lambda: {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {**LAYER, "dim": (3, -4), "index": (3, -4), "depth": (0, 16, 1.5, "3")},
    ),
    "CrossDConv3d": (CrossDConv3d, lambda: {"in_channels": 2, "out_channels": 4, "kernel_size": 3}, LAYER),
    "to_crossd": (crossd_ops.to_crossd, lambda: {"model": network()}, {"model": NO_MODEL}),
    "to_3d": (crossd_ops.to_3d, lambda: {"model": network()}, {"model": NO_MODEL, "recipe": ("text", 1)}),
    "to_2d": (crossd_ops.to_2d, lambda: {"model": volume_network()}, {"model": NO_MODEL, "recipe": ("text", 1)}),
    "bake": (
        crossd_ops.bake,
        lambda: {"model": network(), "batches": [IMAGES]},
        {"model": NO_MODEL, "batches": (None, 3, [])},
    ),
    "calibrate": (
        crossd_ops.calibrate,
        lambda: {"model": network(), "batches": [IMAGES]},
        {"model": NO_MODEL, "batches": (None, 3, [])},
    ),
    "adapt_input_channels": (
        crossd_ops.adapt_input_channels,
        lambda: {"model": nn.Sequential(nn.Conv2d(3, 4, 3)), "channels": 1},
        {"model": NO_MODEL, "channels": NO_CHANNELS},
    ),
    "with_early_heads": (crossd_ops.with_early_heads, lambda: {"model": network()}, {"model": NO_MODEL}),
    "load_published": (
        crossd_ops.load_published,
        lambda: {"model": network(), "source": network().state_dict()},
        {"model": NO_MODEL, "source": (None, 3, [1])},
    ),
    "save_published": (
        crossd_ops.save_published,
        lambda: {"model": nn.Sequential(CrossDConv2d(2, 4, 3, bias=False)), "path": Path(mkdtemp()) / "saved.pt"},
        {"model": NO_MODEL},
    ),
    "use_backend": (lambda name: crossd_ops.use_backend(name).__enter__(), lambda: {"name": "reference"},
                    {"name": NO_NAME}),
}  # fmt: skip
# Without arguments that could be wrong, or checked elsewhere as the note says.
NOT_HERE = {
    "ACSConv3d": "test_acs.py",
    "CrossDConv2dEarly": "arguments of CrossDConv2d",
    **dict.fromkeys(("backend", "self_test"), "a device, which torch checks"),
    **dict.fromkeys(("build_info", "cmake_prefix_path", "include_path"), "no argument"),
    **dict.fromkeys(("CheckpointReport", "SelfTestCheck", "SelfTestReport"), "a record"),
    "reference": "test_errors.py",
}
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
    assert set(FUNCTIONS) | set(NOT_HERE) == set(crossd_ops.__all__)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arguments_that_do(function: str) -> None:
    call, arguments, _ = FUNCTIONS[function]
    try:
        call(**arguments())
    finally:
        crossd_ops._backend._forced = None  # use_backend was entered and not left


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


def test_fake_tensors_have_the_shapes_of_real_ones() -> None:
    calls: list[Callable[..., Tensor]] = [
        lambda input, weight, shift: crossd_ops.fourier_shift(weight, shift),
        lambda input, weight, shift: crossd_ops.fourier_shift_slice(weight.transpose(0, 1), shift, dim=2),
        lambda input, weight, shift: crossd_ops.crossd_conv2d(input, weight, shift, padding=1),
        lambda input, weight, shift: crossd_ops.crossd_conv2d(
            input.to(memory_format=torch.channels_last), weight, shift
        ),
    ]
    for call in calls:
        real = call(IMAGES, WEIGHT, SHIFT)
        with FakeTensorMode() as mode:
            fake = call(*(mode.from_tensor(tensor) for tensor in (IMAGES, WEIGHT, SHIFT)))
        assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)


def available_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


@pytest.mark.skipif(os.environ.get("CROSSD_LARGE") != "1", reason="takes 5 GB: CROSSD_LARGE=1")
@pytest.mark.skipif(available_bytes() < 8 << 30, reason="needs 8 GB of free memory")
@pytest.mark.parametrize(("out_channels", "samples"), [(2**28 + 5, 1), (2**15, 2**13 + 1)])
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
