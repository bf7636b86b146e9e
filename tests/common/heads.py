"""Heads to try the operator of the whole head on, and whether it ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from crossd_ops import CrossDConv2d


def float32_head(channels: int, *, training: bool = True) -> nn.Sequential:
    """A head whose parameters and running statistics are not the initial ones."""
    head = CrossDConv2d(channels, 4, 3).rotation_params
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        head[1].running_mean.normal_()
        head[1].running_var.uniform_(0.5, 2)
    return head.train(training)


@contextmanager
def operator_calls() -> Iterator[list[str]]:
    """The names of the operators that run inside the block, forward and backward."""
    names: list[str] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Record():
        yield names
