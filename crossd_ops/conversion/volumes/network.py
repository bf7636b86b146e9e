"""Modules whose own code runs on volumes, or back on images: of a class made of theirs, which enters a mode."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ...functional import tracer_of
from ...layers.leaf import Leaf, WatchesNetworks, watching
from ..code.bytecode import raised_by_us
from ..code.modules import compiles
from ..images.mode import ImageCalls, refuse_nodes
from .axes import Refusal
from .mode import VolumeCalls
from .traced import lift_nodes, nodes_of

# Modules of torch that call nothing but what is the same for images and volumes, or nothing at all.
_HARMLESS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Identity, nn.Linear, nn.ReLU,
    nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Dropout, nn.AlphaDropout,
    nn.GroupNorm, nn.LocalResponseNorm,
)  # fmt: skip
# Packages whose classes have methods that are not code of networks.
_INFRASTRUCTURE = ("torch", "lightning", "pytorch_lightning", "lightning_fabric", "builtins")
_NAME = "_name_watched_method"
_RAN = "_ran_on_volumes"
_ERRORS = (RuntimeError, AssertionError, IndexError, TypeError, ValueError, KeyError)


class WatchedNetwork(nn.Module):
    """Mixed into the class of a module whose code was written for other maps: its methods run within a mode.

    Attributes:
        own_type: the class of the module without it.
        calls: the mode: `VolumeCalls` for code for images, `ImageCalls` for code for volumes.
        runs_compiled: whether a compiled graph shows all that its code calls; otherwise it is not compiled.
    """

    own_type: type[nn.Module]
    calls: type[WatchesNetworks]
    runs_compiled: bool

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The made class has no name by which it could be imported: it is made anew from the one that has.
        function, arguments, *rest = cast(tuple[Any, ...], super().__reduce_ex__(protocol))
        arguments = tuple(self.own_type if argument is type(self) else argument for argument in arguments)
        return _rebuilt, (function, arguments, self.calls, self.runs_compiled), *rest

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"expected torch.jit.trace or torch.export for {type(self).__name__}, which to_3d or to_2d made, got "
            "torch.jit.script: TorchScript reads code, and this one is watched when it runs"
        )


def _rebuilt(
    function: Callable[..., nn.Module], arguments: tuple[Any, ...], calls: Any, runs_compiled: bool
) -> nn.Module:
    module = function(*arguments)
    module.__class__ = watched_class(_kind(module), calls, runs_compiled)
    return module


def _kind(module: nn.Module) -> Any:
    return type(module)


def runs_own_code(module: nn.Module) -> bool:
    """Whether the forward of a module that is no known layer calls torch in a way that we have to look at."""
    if type(module) in _HARMLESS or "_orig_mod" in module._modules or isinstance(module, WatchedNetwork | Leaf):
        return False
    return not (isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1))


def lift(name: str, module: nn.Module) -> None:
    """Lets the code of `module` run on volumes from now on, in place.

    Args:
        name: of the module in its network, for errors.
    """
    _refuse_buffers(name, module)
    if isinstance(module, torch.fx.GraphModule):
        lift_nodes(nodes_of(module))
        module.recompile()
    elif isinstance(module, WatchedNetwork):
        _restore(module)
    elif runs_own_code(module):
        _watch(name, module, VolumeCalls)


def lower(name: str, module: nn.Module) -> None:
    """Undoes `lift`; code that was written for volumes runs on images from now on, as far as it means the same there.

    Raises:
        TypeError: a trace of such code, which calls what does not.
    """
    if isinstance(module, torch.fx.GraphModule):
        if not lift_nodes(nodes_of(module), undo=True):
            refuse_nodes(name, nodes_of(module))
        module.recompile()
    elif isinstance(module, WatchedNetwork):
        _restore(module)
    elif runs_own_code(module):
        _watch(name, module, ImageCalls)


class WatchedHook:
    """A hook that was put on a module for other maps: it runs within a mode, as the code of the network does.

    Args:
        name: of the module, for errors.
        hook: what was registered.
        calls: the mode.
    """

    def __init__(self, name: str, hook: Any, calls: Any) -> None:
        self.name, self.hook, self.calls = name, hook, calls

    def watched_hook(self, module: nn.Module, *args: Any) -> Any:
        """What the hook gives."""
        if torch.compiler.is_dynamo_compiling():
            raise TypeError(
                f"{self.name}: expected hooks that a compiled graph shows, got {self.hook!r}, which may call what it "
                "does not: compile without fullgraph, then it runs as it is"
            )
        mode = watching()
        if mode is not None and not mode.paused:
            return self.hook(module, *args)
        try:
            with self.calls():
                return self.hook(module, *args)
        except Refusal as refusal:
            maps = "volumes" if self.calls is VolumeCalls else "images"
            raise TypeError(
                f"{self.name}: expected hooks that work on {maps} too, got {self.hook!r}, which {refusal}"
            ) from None

    __call__ = watched_hook


def lift_hooks(name: str, module: nn.Module) -> None:
    """Lets hooks of users on `module`, which were written for images, run on volumes too."""
    _watch_hooks(name, module, VolumeCalls)


def lower_hooks(name: str, module: nn.Module) -> None:
    """Undoes `lift_hooks`; those that were written for volumes run on images."""
    _watch_hooks(name, module, ImageCalls)


def _watch_hooks(name: str, module: nn.Module, calls: Any) -> None:
    for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        hooks = vars(module)[kind]
        for key, hook in hooks.items():
            if isinstance(hook, WatchedHook):
                hooks[key] = hook.hook
            elif not str(getattr(hook, "__module__", "")).startswith("torch."):
                hooks[key] = WatchedHook(name, hook, calls)


def _refuse_buffers(name: str, module: nn.Module) -> None:
    for buffer, value in [*module._buffers.items(), *vars(module).items()]:
        if isinstance(value, torch.Tensor) and value.dim() == 5:
            raise TypeError(
                f"{name}.{buffer}: expected a tensor of other than five axes in code for images, got "
                f"{tuple(value.shape)}, which is taken for a volume"
            )


def _watch(name: str, module: nn.Module, calls: Any) -> None:
    module.__class__ = watched_class(_kind(module), calls, compiles(module))
    vars(module)[_NAME] = name
    _bind_forward(module)


def _restore(module: nn.Module) -> None:
    module.__class__ = _kind(module).own_type
    for attribute in (_NAME, _RAN):
        vars(module).pop(attribute, None)
    _bind_forward(module)


def _bind_forward(module: nn.Module) -> None:
    """Where the forward is another method of the module, set on it: that of its class."""
    forward = vars(module).get("forward")
    if isinstance(forward, types.MethodType):
        vars(module)["forward"] = types.MethodType(getattr(type(module), forward.__func__.__name__), module)


@functools.cache
def watched_class(kind: Any, calls: Any, runs_compiled: bool) -> Any:
    """The class of modules of `kind` that run within `calls`; its methods take the place of those of `kind`.

    Modules that are not compiled have a class of their own, as Dynamo remembers by the code of a method what to skip.
    """
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "own_type": kind,
        "calls": calls,
        "runs_compiled": runs_compiled,
    }
    for owner in reversed(kind.__mro__):
        own = owner.__module__.partition(".")[0] not in _INFRASTRUCTURE
        for name, member in vars(owner).items():
            run = name == "forward" or (own and (name == "__call__" or not name.startswith("__")))
            if isinstance(member, types.FunctionType) and run:
                if not (inspect.isgeneratorfunction(member) or inspect.iscoroutinefunction(member)):
                    members[name] = _watched(member, name == "forward")
            elif name in members and not isinstance(member, types.FunctionType):
                del members[name]
    return types.new_class(kind.__name__, (WatchedNetwork, kind), {}, lambda namespace: namespace.update(members))


def _watched(method: Callable[..., Any], is_forward: bool) -> Callable[..., Any]:
    """`method`, which runs within the mode of its class, also where the backward pass calls it again."""
    uncompiled = functools.cache(lambda: torch.compiler.disable(method))  # type: ignore[no-untyped-call]

    @functools.wraps(method)
    def watched_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(*args, *kwargs.values())
        if tracer is not None:
            _refuse_trace_on_images(self)
            before = len(tracer.graph.nodes)
            result = method(self, *args, **kwargs)
            lift_nodes([*tracer.graph.nodes][before:])
            return result
        mode = watching()
        if mode is not None and not is_forward:
            return method(self, *args, **kwargs)
        run = method
        if torch.compiler.is_dynamo_compiling():
            if not self.runs_compiled:
                raise TypeError(
                    f"{vars(self)[_NAME]}: expected code that a compiled graph shows, got {type(self).__name__}, which "
                    "may call what it does not: compile without fullgraph, then it runs as it is"
                )
        elif "torch._dynamo" in sys.modules:
            run = uncompiled()  # where a graph ends before us, Dynamo would begin one within the mode
        try:
            if mode is None:
                with self.calls():
                    result = run(self, *args, **kwargs)
            else:
                result = run(self, *args, **kwargs)
        except Refusal as refusal:
            raise _named(self, refusal) from None
        except _ERRORS as error:
            if not is_forward or _RAN in vars(self) or type(error) not in _ERRORS or raised_by_us(error):
                raise
            raise ValueError(
                f"{vars(self).get(_NAME)}: expected {_map(self)} that the code of {type(self).__name__} takes, "
                f"got one on which it fails ({type(error).__name__}: {error})"
            ) from error
        if is_forward and not torch.compiler.is_dynamo_compiling() and _RAN not in vars(self):
            vars(self)[_RAN] = True
        return result

    # Dynamo keeps its books by code objects, of which each method has its own.
    function = cast(types.FunctionType, watched_method)
    function.__code__ = function.__code__.replace()
    return function


def _named(module: nn.Module, refusal: Refusal) -> TypeError:
    """What a user reads: which module of the network did it."""
    name, text = vars(module).get(_NAME, "model"), str(refusal)  # Dynamo formats an exception as its repr
    kind = type(module).__name__
    return TypeError(f"{name}: expected code that works on {_map(module).split()[1]}s too, got {kind}, which {text}")


def _map(module: Any) -> str:
    return "a volume" if module.calls is VolumeCalls else "an image"


def _refuse_trace_on_images(module: Any) -> None:
    if module.calls is ImageCalls:
        name = vars(module).get(_NAME, "model")
        raise TypeError(
            f"{name}: expected torch.export or torch.jit.trace for {type(module).__name__}, whose code was written for "
            "volumes, got torch.fx, in whose graphs nobody sees what it means for images"
        )
