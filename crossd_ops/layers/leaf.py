"""Symbolic traces of torch.fx, as feature extractors of torchvision and timm make them: a layer is one node there."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy

from ..functional import tracer_of


class Leaf(nn.Module):
    """A layer that is one node of such a graph, as the layers of torch.nn are.

    Tracers go into every module that is not torch's. What this one does depends on sizes and types, which a trace does
    not know.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The forward pass with its hooks; in a trace a node for it."""
        tracer = tracer_of(*arguments, *options.values())
        if tracer is None:
            return super().__call__(*arguments, **options)

        def node(*arguments: Any, **options: Any) -> Proxy:
            result: Proxy = tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, options)
            return result

        # The tracer calls what it takes for the forward pass between the books that it keeps on names. Neither forward
        # nor the hooks run now: they do whenever the node does.
        return tracer.call_module(self, node, arguments, options)
