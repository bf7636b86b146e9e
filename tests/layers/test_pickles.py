"""Whole modules that version 0.1 pickled, which name the modules of Python that its layers lay in."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import crossd_ops

FILE = Path(__file__).with_name("whole_modules_0.1.pt")  # written by the commit before the layers moved
NAMES = (
    "CrossDConv2d", "fixed", "CrossDConv2dEarly", "CrossDConv3d", "ACSConv3d",
    "to_crossd", "to_3d", "acs", "CrossDConv2dSame",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_whole_modules_load_and_compute_the_same(name: str) -> None:
    found = torch.load(FILE, weights_only=False)[name]
    torch.testing.assert_close(found["module"](found["input"]), found["output"])


def test_only_known_classes_are_loaded() -> None:
    """Loaded with weights alone, torch refuses by the name that stands in the file."""
    with pytest.raises(Exception, match=r"Unsupported global: GLOBAL crossd_ops\.modules\.CrossDConv2d"):
        torch.load(FILE, weights_only=True)


@pytest.mark.parametrize(
    "module, name", [("modules", "CrossDConv2d"), ("modules_3d", "CrossDConv3d"), ("early", "CrossDConv2dEarly")]
)
def test_layers_are_found_where_they_lay(module: str, name: str) -> None:
    assert getattr(importlib.import_module(f"crossd_ops.{module}"), name) is getattr(crossd_ops, name)
