"""The mode in which code that was written for volumes runs on images."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...layers.leaf import WatchesNetworks
from ..code.bytecode import of_networks
from ..volumes.axes import Refusal
from ..volumes.mode import described
from ..volumes.pointwise import attribute, pointwise
from ..volumes.reductions import EXTREMES, PLACES, SEVERAL, SINGLE
from ..volumes.rules import GETTERS, KEEPING, NAMES, RULES, Call, getter, named
from .sizes import ImageSize, rank_of

# Counted the same from the front and from behind: batch, channels, width, height. Between them is the depth.
_SAME = (0, 1, -1, -2)
# Called by the 2D layers that take the place of 3D ones, and what is about channels or the last axis alone.
_OF_LAYERS = {
    *named(
        "conv2d", "conv_transpose2d", "batch_norm", "instance_norm", "group_norm", "local_response_norm", "max_pool2d",
        "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d", "dropout2d", "linear", "layer_norm",
        "rms_norm", "cross_entropy", "nll_loss", "channel_shuffle", "prelu",
    )
}  # fmt: skip
_REDUCED = {**dict.fromkeys((*SEVERAL, *SINGLE, *EXTREMES, *PLACES), 1), "kthvalue": 2, "norm": 2, "vector_norm": 2}
# Name -> where the axis is named, and which one it is otherwise.
_ALONG: dict[str, tuple[int, Any]] = {
    **dict.fromkeys(("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "index_select", "narrow"), (1, None)),
    **dict.fromkeys(("glu", "sort", "argsort"), (1, -1)),
    **dict.fromkeys(("cat", "concat", "concatenate"), (1, 0)),
    **dict.fromkeys(("chunk", "split", "tensor_split", "split_with_sizes"), (2, 0)),
    "topk": (2, -1), "normalize": (2, 1), "cosine_similarity": (2, 1),
}  # fmt: skip


class ImageCalls(WatchesNetworks):
    """Within it, calls that code for volumes makes on images (B, C, H, W) pass where they mean the same for both.

    Elements, channels, batches, whole maps and their last two axes do, and so does what code for any number of axes
    asks for. What counts the depth, or may do so, raises: nobody can say what a network was to do without one.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or func in KEEPING or func in _OF_LAYERS or not _any_image((*args, *kwargs.values())):
            return func(*args, **kwargs)
        try:
            return _judged(Call(func, args, kwargs, False))
        except Refusal as refusal:
            raise Refusal(described(func, args, kwargs, refusal)) from None


def _any_image(values: Iterable[Any]) -> bool:
    return any(
        _is_image(value) or (isinstance(value, tuple | list) and any(_is_image(part) for part in value))
        for value in values
    )


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and type(value) is not nn.Parameter


def _judged(call: Call) -> Any:
    name = NAMES.get(call.function, "")
    asked = _asked(call, name)
    if asked is not None:
        return asked
    if RULES.get(call.function) is pointwise or (name in EXTREMES and isinstance(call.argument(1, "other"), Tensor)):
        _check_operands(call)
    elif name in _REDUCED:
        _check_reduced(call, call.argument(_REDUCED[name], "dim", "axis"))
    elif name in _ALONG:
        position, default = _ALONG[name]
        if call.argument(position, "dim", "axis", default=default) not in _SAME:
            raise Refusal("along an axis that is another one in volumes")
    elif name in ("view", "reshape"):
        return _viewed(call)
    elif name == "__getitem__":
        _check_index(call.args[1])
    elif not _is_alike(call, name):
        raise Refusal("which is not known for images in code for volumes")
    return call.run()


def _asked(call: Call, name: str) -> Any:
    """The answer where a call asks for sizes, or for what has no axes."""
    if call.function == getter("shape") or name == "size":
        sizes = ImageSize(call.tensor.shape)
        dim = call.argument(1, "dim") if name == "size" else None
        return sizes if dim is None else sizes[dim]
    if call.function == getter("ndim") or name in ("dim", "ndimension"):
        return rank_of(call.run())
    if not torch.compiler.is_dynamo_compiling() and GETTERS.get(call.function) is attribute:
        return call.run()
    return None


def refuse_nodes(name: str, nodes: Iterable[fx.Node]) -> None:
    """Raises where a graph of torch.fx, which was made of code for volumes, calls what may count a depth.

    Raises:
        TypeError: with the call.
    """
    for node in nodes:
        function: Any = node.target
        if node.op == "call_method":
            function = getattr(Tensor, str(node.target), None)
        elif node.op != "call_function":
            continue
        along = NAMES.get(function) in ("cat", "flatten") and [*node.args[1:], *node.kwargs.values()] == [1]
        if not (along or function in KEEPING or function in _OF_LAYERS or RULES.get(function) is pointwise):
            raise TypeError(
                f"{name}: expected a graph of calls that mean the same for images and volumes, got one that calls "
                f"{getattr(function, '__name__', node.target)}{(*node.args,)}"
            )


def _check_operands(call: Call) -> None:
    for operand in (*call.args, *call.kwargs.values()):
        if isinstance(operand, Tensor) and operand.dim() not in (0, 4):
            raise Refusal(f"a tensor {tuple(operand.shape)} together with an image, of which one may have a depth")


def _check_reduced(call: Call, dims: Any) -> None:
    """Raises unless the axes are all, the whole map, or kept, and counted the same."""
    if dims is None or isinstance(dims, bool):
        return
    several = dims if isinstance(dims, tuple | list) else (dims,)
    flat = {dim % 4 for dim in several if isinstance(dim, int) and -4 <= dim < 4}
    if {2, 3} <= flat and len(flat) == len(several) and not _is_literal((*several,)):
        return
    if any(dim not in _SAME for dim in several) or not call.kwargs.get("keepdim", True in call.args[2:]):
        raise Refusal("over axes that are others in volumes")


def _is_literal(dims: tuple[Any, ...]) -> bool:
    """Whether these numbers stand in the code of the network, which then cannot mean any number of axes."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not of_networks(frame):
        frame = frame.f_back
    constants = frame.f_code.co_consts if frame is not None else ()
    return any(constant == dims for constant in constants) or all(abs(dim) in constants for dim in dims)


def _viewed(call: Call) -> Any:
    result, shape = call.run(), call.tensor.shape
    rows = result.dim() < 4 and result.shape[0] == shape[0] and (result.dim() < 3 or result.shape[1] == shape[1])
    if not rows and result.shape != shape:
        raise Refusal(f"the sizes {tuple(result.shape)} of an image of the sizes {tuple(shape)}")
    return result


def _check_index(index: Any) -> None:
    """Raises unless the index cuts batch or channels alone."""
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > 2 or not all(isinstance(part, slice) for part in parts):
        raise Refusal("places along axes that are others in volumes")


def _is_alike(call: Call, name: str) -> bool:
    """Whether what is left means the same for images and volumes, with the arguments that it has."""
    if name == "flatten":
        return call.argument(1, "start_dim", default=0) in (0, 1, 2) and call.argument(2, "end_dim", default=-1) == -1
    if name in ("expand_as", "view_as", "reshape_as"):
        return _is_image(call.argument(1, "other"))
    if name == "pad":
        return len(call.argument(1, "pad")) <= 4
    if name == "interpolate":
        sizes = (call.argument(1, "size"), call.argument(2, "scale_factor"))
        counts = [len(size) for size in sizes if isinstance(size, tuple | list)]
        return call.argument(3, "mode", default="nearest") not in ("trilinear", "bicubic") and set(counts) <= {2}
    return False
