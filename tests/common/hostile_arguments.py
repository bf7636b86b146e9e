"""What every public function takes, and for each argument values that it must refuse: see test_hostile_input.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

import crossd_ops
from crossd_ops import ACSConv3d, CrossDConv2d, CrossDConv2dEarly, CrossDConv3d, conversion, planes

_values = torch.Generator().manual_seed(0)  # the names of the tests have numbers in them
WEIGHT, SHIFT, BIAS, IMAGES, VOLUMES = (
    torch.randn(sizes, generator=_values) for sizes in ((4, 2, 3, 3, 3), (2, 3), (4,), (2, 2, 6, 6), (2, 2, 5, 6, 6))
)
KERNELS = torch.randn(2, 4, 2, 3, 3, generator=_values)  # of each sample
META = torch.zeros(2, 3, device="meta")

NO_TENSOR = (None, 1.5, "text", [1.0, 2.0], object())
NO_SHIFT = (*NO_TENSOR, SHIFT.int(), SHIFT.bool(), SHIFT.to(torch.complex64), SHIFT[0], SHIFT[..., None], SHIFT[:, :2],
            torch.zeros(2, 4), torch.tensor(1.0), SHIFT.to_sparse(), META)  # fmt: skip
NO_WEIGHT = (*NO_TENSOR, WEIGHT.to_sparse(), WEIGHT.long(), WEIGHT.to(torch.complex64), WEIGHT[0], WEIGHT[None],
             torch.zeros(4, 2, 3, 16, 3), torch.zeros(4, 2, 0, 3, 3))  # fmt: skip
NO_INPUT = (
    *NO_TENSOR,
    IMAGES.to_sparse(),
    IMAGES.to_mkldnn(),
    IMAGES.int(),
    IMAGES[0],
    torch.zeros(2, 3, 6, 6),
    torch.zeros(3, 2, 6, 6),
    IMAGES.to("meta"),
)
NO_VOLUME = (*NO_TENSOR, VOLUMES.to_sparse(), VOLUMES.int(), VOLUMES[0], torch.zeros(2, 3, 5, 6, 6), IMAGES)
NO_BIAS = (1.5, "text", BIAS.to_sparse(), BIAS.int(), BIAS[:3], BIAS[:, None], BIAS.to("meta"))
NO_GROUPS = (0, -1, 3, 2**40, 1.0, True, "1", None)
NO_PADDING = (None, "text", 1.5, True, (1, 1, 1, 1, 1), (1.5, 1), (True, True), {1, 2}, object(), -1, (-1, 0))
NO_STRIDE = (*NO_PADDING, 0)
NO_CHANNELS = (0, -1, 1.5, True, "2", None)
NO_SIZE = (0, -1, 16, 1.5, True, "text", None, (3, 3, 3, 3), (3, 0))
NO_MODEL = (None, 3, "text", WEIGHT, {})
CONVOLUTION = {"shift": NO_SHIFT, "weight": NO_WEIGHT, "bias": NO_BIAS, "groups": NO_GROUPS, "stride": NO_STRIDE,
               "padding": NO_PADDING, "dilation": NO_STRIDE}  # fmt: skip
OF_SAMPLES = {name: values for name, values in CONVOLUTION.items() if name not in ("shift", "weight")}
NO_KERNELS = (*NO_TENSOR, KERNELS.to_sparse(), KERNELS.long(), KERNELS.double(), KERNELS[0], KERNELS[:1],
              KERNELS[:, :, :1], KERNELS.new_zeros(2, 4, 2, 0, 3), KERNELS.new_zeros(2, 4, 2, 3, 7),
              KERNELS.to("meta"))  # fmt: skip
NO_NAME = ("text", None, 1)
NO_DEVICE = ("text", "cpu:cpu", 1.5, object(), -1)
NO_PATH = (None, 3, 1.5, object(), b"name")
NO_BATCHES = (None, 3, [])
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
        {"weight": NO_WEIGHT, "shift": NO_SHIFT, "dim": (3, -4, 2**63, 1.0, True, "1", None, SHIFT),
         "index": (3, -4, 2**63, 1.0, True, "1", SHIFT)},
    ),
    "crossd_conv2d": (
        crossd_ops.crossd_conv2d,
        lambda: {"input": IMAGES, "weight": WEIGHT, "shift": SHIFT},
        {"input": (*NO_INPUT, VOLUMES), "dim": (3, 1.0, True), "index": (3, "1", True), **CONVOLUTION},
    ),
    "crossd_conv3d": (
        crossd_ops.crossd_conv3d,
        lambda: {"input": VOLUMES, "weight": WEIGHT, "shift": SHIFT},
        {"input": NO_VOLUME, **CONVOLUTION},
    ),
    "sample_conv2d": (
        crossd_ops.sample_conv2d,
        lambda: {"input": IMAGES, "weight": KERNELS},
        {"input": (*NO_INPUT, VOLUMES), "weight": (*NO_KERNELS, KERNELS[..., None]), **OF_SAMPLES},
    ),
    "sample_conv3d": (
        crossd_ops.sample_conv3d,
        lambda: {"input": VOLUMES, "weight": KERNELS[..., None]},
        {"input": NO_VOLUME, "weight": (*NO_KERNELS, KERNELS), **OF_SAMPLES},
    ),
    "CrossDConv2d": (
        CrossDConv2d,
        lambda: {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {**LAYER, "dim": (3, -4, 1.0), "index": (3, -4, 1.0), "depth": (0, 16, 1.5, True, "3"),
         "rotation_channels": NO_CHANNELS},
    ),
    "CrossDConv2dEarly": (
        CrossDConv2dEarly,
        lambda: {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {**{name: values for name, values in LAYER.items() if name != "rotation"}, "dim": (3, -4), "depth": (0, 16)},
    ),
    "ACSConv3d": (
        ACSConv3d,
        lambda: {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {**{name: values for name, values in LAYER.items() if name not in ("rotation", "kernel_size")},
         "kernel_size": (0, -1, 1.5, True, "text", None, (3, 3))},
    ),
    "CrossDConv3d": (
        CrossDConv3d,
        lambda: {"in_channels": 2, "out_channels": 4, "kernel_size": 3},
        {**LAYER, "dim": (3, -4, 1.0), "rotation_channels": NO_CHANNELS},
    ),
    "to_crossd": (crossd_ops.to_crossd, lambda: {"model": network()}, {"model": NO_MODEL}),
    "to_3d": (crossd_ops.to_3d, lambda: {"model": network()}, {"model": NO_MODEL, "recipe": ("text", 1)}),
    "to_2d": (crossd_ops.to_2d, lambda: {"model": volume_network()}, {"model": NO_MODEL, "recipe": ("text", 1)}),
    "bake": (
        crossd_ops.bake,
        lambda: {"model": network(), "batches": [IMAGES]},
        {"model": NO_MODEL, "batches": NO_BATCHES},
    ),
    "calibrate": (
        crossd_ops.calibrate,
        lambda: {"model": network(), "batches": [IMAGES]},
        {"model": NO_MODEL, "batches": NO_BATCHES},
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
        {"model": NO_MODEL, "path": NO_PATH},
    ),
    "backend": (crossd_ops.backend, lambda: {"device": "cpu"}, {"device": NO_DEVICE}),
    "self_test": (lambda device: device == "cpu" or crossd_ops.self_test(device), lambda: {"device": "cpu"},
                  {"device": (*NO_DEVICE, "meta")}),
    "use_backend": (lambda name: crossd_ops.use_backend(name).__enter__(), lambda: {"name": "reference"},
                    {"name": NO_NAME}),
    "mean_shifts": (
        conversion.mean_shifts,
        lambda: {"model": network(), "batches": [IMAGES]},
        {"model": NO_MODEL,
         "batches": (*NO_BATCHES, {}, {"0": SHIFT[0]}, {"other": SHIFT}, {"0": SHIFT * float("nan")})},
    ),
    "set_plane": (
        planes.set_plane,
        lambda: {"model": network(), "dim": 1},
        {"model": NO_MODEL, "dim": (3, -1, 2**63, 1.0, True, "1", None, SHIFT)},
    ),
    "random_plane": (
        planes.random_plane,
        lambda: {"model": network(), "generator": None},
        {"model": NO_MODEL, "generator": (1, "text", SHIFT)},
    ),
    "sum_of_planes": (
        planes.sum_of_planes,
        lambda: {"weight": WEIGHT},
        {"weight": (*NO_TENSOR, WEIGHT.long(), WEIGHT[0], WEIGHT[..., :2], WEIGHT.new_zeros(2, 2, 0, 0, 0))},
    ),
}  # fmt: skip
# Without arguments that could be wrong, or checked elsewhere as the note says.
NOT_HERE = {
    **dict.fromkeys(("build_info", "cmake_prefix_path", "include_path"), "no argument"),
    **dict.fromkeys(("CheckpointReport", "SelfTestCheck", "SelfTestReport"), "a record"),
    "reference": "test_errors.py",
    "check_volumes": "conversion/test_check.py",
    # What converters put into networks, from layers that are there.
    **dict.fromkeys(("BatchNormAct3d", "Conv3dSame", "CrossDConv2dSame", "LayerNorm3d", "WeightStandardization"), ""),
}
