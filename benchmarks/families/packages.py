"""Packages of networks, imported where they are installed."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import torch

_kept: list[torch.library.Library] = []  # a Library takes its operators away when it goes


def import_package(name: str) -> ModuleType:
    """A package by its name; torchvision also where its wheel was built for CUDA and torch was not.

    Raises:
        ImportError, RuntimeError: it is not installed, or does not fit this torch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_torchvision()  # timm, segmentation_models_pytorch, ... import it too
        return importlib.import_module(name)


def import_torchvision() -> None:
    """Imports torchvision, where it is installed, also a wheel for CUDA beside a torch without.

    Raises:
        RuntimeError: it does not fit this torch.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        # Wheels built for CUDA cannot load their operators beside a CPU-only torch, yet describe them on import.
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(operators)
        importlib.import_module("torchvision")
