"""Which shifts a trained Cross-D network uses on data: what stands in their place once the rotation is frozen."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.conv2d import CrossDConv2d
from ..layers.conv3d import CrossDConv3d
from ..layers.plain_tensor import plain_tensor
from .modules.copies import walk
from .modules.parameters import computed_by_hooks

SHIFT_AT_ANGLE_ZERO = (1.0, 1.0, 1.0)
_INPUT_KEYS = ("image", "input")


def crossd_layers(model: nn.Module) -> dict[str, Any]:
    """Every Cross-D convolution of `model` by its first name; none is a ValueError."""
    layers = {name: module for name, module in walk(model) if is_crossd(module)}
    if not layers:
        raise ValueError(f"model: expected Cross-D convolutions in it, got {type(model).__name__} with none")
    return layers


def is_crossd(module: nn.Module) -> bool:
    """Whether `module` is a Cross-D convolution, of images or of volumes."""
    return isinstance(module, CrossDConv2d | CrossDConv3d)


def calibrate(model: nn.Module, batches: Iterable[Any], *, progress: bool = True) -> dict[str, Tensor]:
    """Runs the network on data and records the shift of every sample in every Cross-D convolution.

    The model runs in evaluation mode without gradients, and is afterwards as it was: every module's training flag, the
    statistics of the normalisations, and no hook left, also where a batch raises. What torch.compile made runs as the
    code it was made of.

    Args:
        model: any module with Cross-D convolutions.
        batches: lists, generators and data loaders. A batch is the input tensor; a tuple or list whose first item is
            the input; a dictionary that has it as "image" or "input"; or anything else the model takes. Tensors are
            moved to the model's device.
        progress: show a bar, where tqdm is installed.

    Returns:
        Shifts (N, 3), in elements, float32 on the CPU, of each layer by its name; N is the number of samples it saw
        (a shared layer sees a sample several times), 0 for a layer that no batch reached. A layer with a fixed shift
        (`fix_shift`) has that one for every sample.

    Raises:
        TypeError: `model` is no module, or `batches` a tensor or a dictionary: put a single batch into a list.
        ValueError: no Cross-D convolution in `model`, no batch, or a dictionary without an input.
    """
    layers = crossd_layers(model)
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected an iterable of batches, got {type(batches).__name__}; is it one batch?")
    recorded: dict[str, list[Tensor]] = {name: [] for name in layers}
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    count = 0
    with (
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
        _evaluating(model),
        _recording(layers, recorded),
    ):
        for batch in _with_bar(batches, progress):
            model(_input(batch, device))
            count += 1
    if count == 0:
        raise ValueError("batches: expected at least one batch, got none (a generator runs once)")
    none = torch.empty(0, 3, dtype=torch.float32, device="cpu")
    return {name: torch.cat([none, *shifts]) for name, shifts in recorded.items()}


def recorded_shifts(
    model: nn.Module, batches: Iterable[Any] | Mapping[str, Tensor], *, progress: bool = True
) -> Mapping[str, Tensor]:
    """What `calibrate` returns for `batches`; or `batches`, where that is what it returned.

    Raises:
        TypeError, ValueError: as for `calibrate`; a dictionary with other names than the layers of `model`, or with
            other sizes than (N, 3).
    """
    if not isinstance(batches, Mapping):
        return calibrate(model, batches, progress=progress)
    shifts, layers = batches, crossd_layers(model)
    if set(shifts) != set(layers):
        missing, unknown = sorted(set(layers) - set(shifts)), sorted(set(shifts) - set(layers))
        raise ValueError(
            f"batches: expected shifts of the layers of model, got none of {missing or 'no layer'} and unknown "
            f"{unknown or 'none'}"
        )
    for name, values in shifts.items():
        if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[1] != 3:
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"batches: expected shifts (N, 3) for {name}, got {came}")
    return {name: plain_tensor(values).detach().cpu() for name, values in shifts.items()}


def mean_shifts(
    model: nn.Module, batches: Iterable[Any] | Mapping[str, Tensor], *, progress: bool = True
) -> dict[str, Tensor]:
    """The mean shift (3,), in elements, float32 on the CPU, of every Cross-D convolution of `model` by its name.

    Args:
        model, progress: as for `calibrate`.
        batches: as for `calibrate`; or what it returned.

    Returns:
        For a layer that no batch reached, the shift at the angle 0, (1, 1, 1), with a warning that names it.

    Raises:
        TypeError, ValueError: as for `calibrate`; a recorded shift that is NaN or infinite; a dictionary with other
            names than the layers of `model`, or with other sizes than (N, 3).
    """
    shifts = recorded_shifts(model, batches, progress=progress)
    unseen = [name for name, values in shifts.items() if len(values) == 0]
    if unseen:
        warnings.warn(
            f"no batch reached these layers, which get the shift at the angle 0, {SHIFT_AT_ANGLE_ZERO}: "
            f"{', '.join(unseen)}",
            stacklevel=3,
        )
    unusable = [name for name, values in shifts.items() if not values.isfinite().all()]
    if unusable:
        raise ValueError(f"batches: expected finite shifts, got NaN or infinity in {', '.join(unusable)}")
    angle_zero = torch.tensor(SHIFT_AT_ANGLE_ZERO, dtype=torch.float32, device="cpu")
    return {
        name: values.double().mean(0).float() if len(values) else angle_zero.clone() for name, values in shifts.items()
    }


def _input(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        found = [key for key in _INPUT_KEYS if key in batch]
        if not found:
            raise ValueError(f"batches: expected 'image' or 'input' in a dictionary, got {sorted(map(str, batch))}")
        batch = batch[found[0]]
    elif isinstance(batch, tuple | list):
        if not batch:
            raise ValueError(f"batches: expected an input as the first item of a batch, got an empty {type(batch)}")
        batch = batch[0]
    return batch.to(device) if isinstance(batch, Tensor) else batch


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has its own mode again, which train() would not give back."""
    modes = [(module, module.training, computed_by_hooks(module)) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training, computed in modes:
            module.training = training
            vars(module).update(computed)


@contextlib.contextmanager
def _recording(layers: Mapping[str, Any], recorded: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """Appends the shifts of every call of a layer."""

    def record(name: str, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        input = arguments[0] if arguments else keywords["input"]
        if module.fixed_shift is None:
            shift = module.predict_shift(input)
        else:
            shift = module.fixed_shift.expand(input.shape[0], 3)
        recorded[name].append(plain_tensor(shift).to("cpu", torch.float32, copy=True))

    with contextlib.ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_pre_hook(
                lambda module, arguments, keywords, name=name: record(name, module, arguments, keywords),
                with_kwargs=True,
            )
            stack.callback(handle.remove)
        yield


def _with_bar(batches: Iterable[Any], progress: bool) -> Iterable[Any]:
    if not progress:
        return batches
    try:
        tqdm: Any = importlib.import_module("tqdm.auto").tqdm
    except ImportError:
        return batches
    bar: Iterable[Any] = tqdm(batches, desc="calibrating", unit="batch")
    return bar
