"""Symbolic traces of torch.fx, as feature extractors of torchvision and timm make them: what is one node there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn
from torch.fx import Proxy
from torch.overrides import has_torch_function

_Function = TypeVar("_Function", bound=Callable[..., Any])


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


def one_node(function: _Function) -> _Function:
    """`function`, which is one node of such a graph where it gets a Proxy, as the functions of torch are."""

    @functools.wraps(function)
    def traced(*arguments: Any, **options: Any) -> Any:
        # The quick question, in C++, before the exact one: other things than a Proxy have a __torch_function__ too.
        if has_torch_function(arguments) or (options and has_torch_function(tuple(options.values()))):
            tracer = tracer_of(*arguments, *options.values())
            if tracer is not None:
                return tracer.create_proxy("call_function", traced, arguments, options)
        return function(*arguments, **options)

    return cast(_Function, traced)


def tracer_of(*values: Any) -> Any:
    """The tracer whose Proxy is one of the values; None where none is."""
    return next((value.tracer for value in values if isinstance(value, Proxy)), None)
