"""What the code of a network cannot do on other maps, whether or not it ever runs."""

from __future__ import annotations

import torch
from torch import nn

from .modules import called, scripted


def refuse_scripted(name: str, module: nn.Module) -> None:
    """Raises where TorchScript has compiled a module, or functions in its code: what these call is not seen.

    Raises:
        TypeError: with the module and the functions.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{name}: expected a module of Python code, got {type(module).__name__} of TorchScript")
    if compiled := scripted(module):
        raise TypeError(
            f"{name}: expected functions of Python code, got {type(module).__name__}, which calls "
            f"{', '.join(compiled)} of TorchScript"
        )


def refuse_images(name: str, module: nn.Module) -> None:
    """Raises where the code of a module calls what has a meaning for images alone, whether or not it ever runs.

    Raises:
        TypeError: with the module and the functions.
    """
    refuse_scripted(name, module)
    if refused := sorted(called(module) & _OF_IMAGES):
        raise TypeError(
            f"{name}: expected code that works on volumes too, got {type(module).__name__}, which calls "
            f"{', '.join(refused)} on maps of two axes"
        )


def refuse_volumes(name: str, module: nn.Module) -> None:
    """The same for what has a meaning for volumes alone."""
    refuse_scripted(name, module)
    if refused := sorted(called(module) & _OF_VOLUMES):
        raise TypeError(
            f"{name}: expected code that works on 2D maps too, got {type(module).__name__}, which calls "
            f"{', '.join(refused)}"
        )


_OF_IMAGES = {
    "affine_grid", "conv2d", "conv_transpose2d", "fold", "grid_sample", "pixel_shuffle", "pixel_unshuffle", "unfold",
}  # fmt: skip
_OF_VOLUMES = {
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "conv3d", "conv_transpose3d", "dropout3d", "lp_pool3d",
    "max_pool3d",
}  # fmt: skip
