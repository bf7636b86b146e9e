"""What the code of a network cannot do on other maps, whether or not it ever runs."""

from __future__ import annotations

import torch
from torch import nn

from .modules import called, scripted


def refuse_unseen(name: str, module: nn.Module) -> None:
    """Raises where what the code of a module calls would not be seen: in TorchScript, and where no mode is asked.

    Raises:
        TypeError: with the module and the functions.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{name}: expected a module of Python code, got {type(module).__name__} of TorchScript")
    if hiding := sorted(called(module) & _HIDING):
        raise TypeError(
            f"{name}: expected calls that can be seen, got {type(module).__name__}, which calls {', '.join(hiding)}"
        )
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
    refuse_unseen(name, module)
    if refused := sorted(called(module) & _OF_IMAGES):
        raise TypeError(
            f"{name}: expected code that works on volumes too, got {type(module).__name__}, which calls "
            f"{', '.join(refused)} on maps of two axes"
        )


def refuse_volumes(name: str, module: nn.Module) -> None:
    """The same for what has a meaning for volumes alone."""
    refuse_unseen(name, module)
    if refused := sorted(called(module) & _OF_VOLUMES):
        raise TypeError(
            f"{name}: expected code that works on 2D maps too, got {type(module).__name__}, which calls "
            f"{', '.join(refused)}"
        )


# Function modes are of a thread.
_HIDING = {"DisableTorchFunction", "DisableTorchFunctionSubclass", "Thread", "ThreadPoolExecutor"}
_OF_IMAGES = {
    "affine_grid", "conv2d", "conv_transpose2d", "fold", "grid_sample", "pixel_shuffle", "pixel_unshuffle", "unfold",
}  # fmt: skip
_OF_VOLUMES = {
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "avg_pool3d", "conv3d", "conv_transpose3d", "dropout3d", "lp_pool3d",
    "max_pool3d",
}  # fmt: skip
