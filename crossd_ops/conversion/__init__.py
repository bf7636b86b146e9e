"""Converters between plain 2D networks, Cross-D networks and 3D networks."""

from __future__ import annotations

from .acs import ACSConv3d
from .bake import bake
from .calibration import calibrate, mean_shifts
from .check import check_volumes
from .input_channels import adapt_input_channels
from .layers_2d import CrossDConv2dSame, WeightStandardization
from .layers_3d import BatchNormAct3d, Conv3dSame, LayerNorm3d
from .to_2d import to_2d
from .to_3d import to_3d
from .to_crossd import to_crossd

__all__ = [
    "ACSConv3d",
    "BatchNormAct3d",
    "Conv3dSame",
    "CrossDConv2dSame",
    "LayerNorm3d",
    "WeightStandardization",
    "adapt_input_channels",
    "bake",
    "calibrate",
    "check_volumes",
    "mean_shifts",
    "to_2d",
    "to_3d",
    "to_crossd",
]
