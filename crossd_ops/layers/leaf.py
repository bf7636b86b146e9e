"""Layers as one thing, for what looks into networks: traces of torch.fx, and modes that watch a network's own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import Proxy
from torch.overrides import TorchFunctionMode, has_torch_function

from ..functional import tracer_of


class WatchesNetworks(TorchFunctionMode):
    """A mode for the code of networks alone.

    Attributes:
        paused: while a layer of this package runs.
        endless: whether volumes go on in front and behind as they end, where layers would put zeros.
    """

    paused = False
    endless = False


def watching() -> WatchesNetworks | None:
    """The innermost such mode that we are in."""
    for place in reversed(range(torch._C._len_torch_function_stack())):
        mode = torch._C._get_function_stack_at(place)
        if isinstance(mode, WatchesNetworks):
            return mode
    return None


class Leaf(nn.Module):
    """A layer that is one node of a trace, as the layers of torch.nn are, and that modes do not look into.

    Tracers, as feature extractors of torchvision and timm have them, go into every module that is not torch's. What
    this one does depends on sizes and types, which a trace does not know.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The forward pass with its hooks; in a trace a node for it."""
        quick = not has_torch_function((*arguments, *options.values()))  # no Proxy, no mode
        if quick and not torch.compiler.is_dynamo_compiling():  # which is not told of modes by the former
            return super().__call__(*arguments, **options)
        tracer = tracer_of(*arguments, *options.values())
        if tracer is None:
            mode = watching()
            if mode is None or mode.paused:
                return super().__call__(*arguments, **options)
            mode.paused = True
            try:
                return super().__call__(*arguments, **options)
            finally:
                mode.paused = False

        def node(*arguments: Any, **options: Any) -> Proxy:
            result: Proxy = tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, options)
            return result

        # The tracer calls what it takes for the forward pass between the books that it keeps on names. Neither forward
        # nor the hooks run now: they do whenever the node does.
        return tracer.call_module(self, node, arguments, options)
