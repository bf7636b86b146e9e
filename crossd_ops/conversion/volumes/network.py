"""Modules whose own code runs on volumes: their class is one made of their class, which enters `VolumeCalls`."""

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
from ..code.bytecode import raised_by_us
from ..code.modules import called, compiles, scripted
from .axes import Refusal
from .mode import VolumeCalls, active_mode
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
_NAME = "_name_in_volumes"
_RAN = "_ran_on_volumes"
_ERRORS = (RuntimeError, AssertionError, IndexError, TypeError, ValueError, KeyError)


class VolumeNetwork(nn.Module):
    """Mixed into the class of a module whose code was written for images: its methods run within `VolumeCalls`.

    Attributes:
        flat_type: the class of the module without it.
        runs_compiled: whether a compiled graph shows all that its code calls; otherwise it is not compiled.
    """

    flat_type: type[nn.Module]
    runs_compiled: bool

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The made class has no name by which it could be imported: it is made anew from the one that has.
        function, arguments, *rest = cast(tuple[Any, ...], super().__reduce_ex__(protocol))
        arguments = tuple(self.flat_type if argument is type(self) else argument for argument in arguments)
        return _rebuilt, (function, arguments, self.runs_compiled), *rest

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"expected torch.jit.trace or torch.export for {type(self).__name__}, which to_3d made, got "
            "torch.jit.script: TorchScript reads code, and this one is made for volumes when it runs"
        )


def _rebuilt(function: Callable[..., nn.Module], arguments: tuple[Any, ...], runs_compiled: bool) -> nn.Module:
    module = function(*arguments)
    module.__class__ = volume_class(_kind(module), runs_compiled)
    return module


def _kind(module: nn.Module) -> Any:
    return type(module)


def runs_own_code(module: nn.Module) -> bool:
    """Whether the forward of a module that is no known layer calls torch in a way that we have to look at."""
    if type(module) in _HARMLESS or "_orig_mod" in module._modules or isinstance(module, VolumeNetwork):
        return False
    return not (isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1))


def lift(name: str, module: nn.Module) -> None:
    """Lets the code of `module` run on volumes from now on, in place.

    Args:
        name: of the module in its network, for errors.
    """
    if isinstance(module, torch.fx.GraphModule):
        lift_nodes(nodes_of(module))
        module.recompile()
        return
    if not runs_own_code(module):
        return
    forward = vars(module).get("forward")
    module.__class__ = volume_class(_kind(module), compiles(module))
    vars(module)[_NAME] = name
    if isinstance(forward, types.MethodType):
        vars(module)["forward"] = types.MethodType(getattr(type(module), forward.__func__.__name__), module)


def lower(module: nn.Module) -> None:
    """Undoes `lift`."""
    if isinstance(module, torch.fx.GraphModule):
        lift_nodes(nodes_of(module), undo=True)
        module.recompile()
    elif isinstance(module, VolumeNetwork):
        forward = vars(module).get("forward")
        module.__class__ = _kind(module).flat_type
        for attribute in (_NAME, _RAN):
            vars(module).pop(attribute, None)
        if isinstance(forward, types.MethodType):
            vars(module)["forward"] = types.MethodType(getattr(type(module), forward.__func__.__name__), module)


@functools.cache
def volume_class(kind: Any, runs_compiled: bool) -> Any:
    """The class of modules of `kind` that run on volumes; its methods take the place of those of `kind`.

    Modules that are not compiled have a class of their own, as Dynamo remembers by the code of a method what to skip.
    """
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "flat_type": kind,
        "runs_compiled": runs_compiled,
    }
    for owner in reversed(kind.__mro__):
        own = owner.__module__.partition(".")[0] not in _INFRASTRUCTURE
        for name, member in vars(owner).items():
            if isinstance(member, types.FunctionType) and (name == "forward" or (own and not name.startswith("__"))):
                if not (inspect.isgeneratorfunction(member) or inspect.iscoroutinefunction(member)):
                    members[name] = _in_volumes(member, name == "forward")
            elif name in members and not isinstance(member, types.FunctionType):
                del members[name]
    return types.new_class(kind.__name__, (VolumeNetwork, kind), {}, lambda namespace: namespace.update(members))


def _in_volumes(method: Callable[..., Any], is_forward: bool) -> Callable[..., Any]:
    """`method`, which runs within `VolumeCalls`, also where the backward pass calls it again."""
    uncompiled = functools.cache(lambda: torch.compiler.disable(method))  # type: ignore[no-untyped-call]

    @functools.wraps(method)
    def in_volumes(self: Any, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(*args, *kwargs.values())
        if tracer is not None:
            before = len(tracer.graph.nodes)
            result = method(self, *args, **kwargs)
            lift_nodes([*tracer.graph.nodes][before:])
            return result
        mode = active_mode()
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
                with VolumeCalls():
                    result = run(self, *args, **kwargs)
            else:
                result = run(self, *args, **kwargs)
        except Refusal as refusal:
            raise _named(self, refusal) from None
        except _ERRORS as error:
            if not is_forward or _RAN in vars(self) or type(error) not in _ERRORS or raised_by_us(error):
                raise
            raise ValueError(
                f"{vars(self).get(_NAME)}: expected a volume that the code of {type(self).__name__} takes, got one on "
                f"which it fails ({type(error).__name__}: {error})"
            ) from error
        if is_forward and not torch.compiler.is_dynamo_compiling() and _RAN not in vars(self):
            vars(self)[_RAN] = True
        return result

    # Dynamo keeps its books by code objects, of which each method has its own.
    function = cast(types.FunctionType, in_volumes)
    function.__code__ = function.__code__.replace()
    return function


def _named(module: nn.Module, refusal: Refusal) -> TypeError:
    """What a user reads: which module of the network did it."""
    name, text = vars(module).get(_NAME, "model"), str(refusal)  # Dynamo formats an exception as its repr
    return TypeError(f"{name}: expected code that works on volumes too, got {type(module).__name__}, which {text}")


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
