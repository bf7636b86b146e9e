"""Cross-D Conv (arXiv 2411.02441): convolutions whose 2D weight is a slice of a 3D weight, shifted for each sample."""

from __future__ import annotations

from importlib import metadata

from . import reference
from ._backend import backend, use_backend
from ._build_info import build_info
from .functional import crossd_conv2d, crossd_conv3d, fourier_shift, fourier_shift_slice, rotation_shift
from .modules import CrossDConv2d

try:
    __version__ = metadata.version("crossd_ops")
except metadata.PackageNotFoundError:  # a source tree on the path
    __version__ = "0+unknown"

__all__ = [
    "CrossDConv2d",
    "backend",
    "build_info",
    "crossd_conv2d",
    "crossd_conv3d",
    "fourier_shift",
    "fourier_shift_slice",
    "reference",
    "rotation_shift",
    "use_backend",
]
