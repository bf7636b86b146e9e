"""Layers that predict a shift for each sample and convolve with the weight it moves."""

from __future__ import annotations

import sys

from . import conv2d, conv3d, early

# Where they lay in version 0.1: pickles of whole modules name these places.
sys.modules["crossd_ops.modules"] = conv2d
sys.modules["crossd_ops.modules_3d"] = conv3d
sys.modules["crossd_ops.early"] = early
