"""Cross-D Conv (arXiv 2411.02441): convolutions whose 2D weight is a slice of a 3D weight, shifted for each sample."""

from __future__ import annotations

from importlib import metadata

from . import reference
from .checkpoints import CheckpointReport, load_published, save_published, with_early_heads
from .conversion import ACSConv3d, adapt_input_channels, bake, calibrate, to_2d, to_3d, to_crossd
from .functional import (
    crossd_conv2d,
    crossd_conv3d,
    fourier_shift,
    fourier_shift_slice,
    rotation_shift,
    sample_conv2d,
    sample_conv3d,
)
from .inspection.build_info import build_info
from .inspection.self_test import SelfTestCheck, SelfTestReport, self_test
from .layers.conv2d import CrossDConv2d
from .layers.conv3d import CrossDConv3d
from .layers.early import CrossDConv2dEarly
from .library.cmake import cmake_prefix_path, include_path
from .operators import descriptions, flops
from .operators.backends import backend, use_backend
from .tuning.saved import use_file_of_environment

descriptions.attach()
use_file_of_environment()
flops.register()

try:
    __version__ = metadata.version("crossd_ops")
except metadata.PackageNotFoundError:  # a source tree on the path
    __version__ = "0+unknown"

__all__ = [
    "ACSConv3d",
    "CheckpointReport",
    "CrossDConv2d",
    "CrossDConv2dEarly",
    "CrossDConv3d",
    "SelfTestCheck",
    "SelfTestReport",
    "adapt_input_channels",
    "backend",
    "bake",
    "build_info",
    "calibrate",
    "cmake_prefix_path",
    "crossd_conv2d",
    "crossd_conv3d",
    "fourier_shift",
    "fourier_shift_slice",
    "include_path",
    "load_published",
    "reference",
    "rotation_shift",
    "sample_conv2d",
    "sample_conv3d",
    "save_published",
    "self_test",
    "to_2d",
    "to_3d",
    "to_crossd",
    "use_backend",
    "with_early_heads",
]
