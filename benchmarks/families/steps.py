"""What is tried with one network: five conversions and uses, each on its own, and the error of the first that fails."""

from __future__ import annotations

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossd_ops
from benchmarks.families.networks import Depth, Network
from crossd_ops.conversion import check_volumes

STEPS = ("to Cross-D", "volumes", "proof", "training step", "back to 2D")
DEPTH = 32  # at least: what is left of it behind five strides of 2 is one slice


def try_network(network: Network, seconds: int) -> dict[str, str]:
    """Each of STEPS -> "yes", "refused: ..." (an error of this package), "fails: ..." (any other), or "" (not tried).

    Raises:
        ImportError, RuntimeError: its package is not installed or does not import.
    """
    torch.manual_seed(0)
    model = network.build()
    image = images(2, network.channels, network.size)
    settle(model, image)
    model.eval()
    trial = _Trial(seconds)
    trial.run("to Cross-D", lambda: _to_crossd(model, image))
    volumes = trial.run("volumes", lambda: _to_volumes(model, image, network.depth))
    if volumes is not None:
        trial.run("proof", lambda: check_volumes(model, volumes, image[:1], slices=slices_for(image)))
        trial.run("training step", lambda: _train(model, image))
        trial.run("back to 2D", lambda: _back(model, volumes, image))
    return trial.results


class _Trial:
    """Runs steps, each with an alarm, and records what came."""

    def __init__(self, seconds: int) -> None:
        self.results = dict.fromkeys(STEPS, "")
        self._seconds = seconds

    def run(self, step: str, work: Callable[[], Any]) -> Any:
        signal.signal(signal.SIGALRM, self._ring)
        signal.alarm(self._seconds)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = work()
        except Exception as error:
            self.results[step] = describe(error)
            return None
        finally:
            signal.alarm(0)
        self.results[step] = "yes"
        return result

    def _ring(self, *_: object) -> None:
        raise TimeoutError(f"no result after {self._seconds} s")


def describe(error: Exception) -> str:
    """One line: whether this package refused, or something else failed, and why."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = isinstance(error, TypeError | ValueError) and "crossd_ops" in frames[-1].filename
    text = " ".join(str(error).split())
    return f"refused: {text}" if ours else f"fails: {type(error).__name__}: {text}"


def images(count: int, channels: int, size: int) -> Tensor:
    """Images that differ at large, as real ones do: deep networks see hardly a difference between two of noise."""
    coarse = F.interpolate(torch.randn(count, channels, 3, 3), (size, size), mode="bilinear")
    return 2 * coarse + 0.5 * torch.randn(count, channels, size, size)


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors of an output: itself, or those in tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors_of(value)


@torch.no_grad()
def settle(model: nn.Module, image: Tensor) -> None:
    """Makes every layer of a fresh network count: scales that are all alike differ, statistics are of the images."""
    for parameter in model.parameters():
        if (parameter == parameter.flatten()[0]).all():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats:
            norm.reset_running_stats()
            norm.momentum = 1.0
    model.train()
    model(image)


def _to_crossd(model: nn.Module, image: Tensor) -> nn.Module:
    result = crossd_ops.to_crossd(model)
    try:
        with torch.no_grad():  # in float64, as some random networks multiply rounding
            _assert_same(result.double()(image.double()), model.double()(image.double()))
    finally:
        model.float()
    return result


def volume_of(image: Tensor, depth: int) -> Tensor:
    """Volumes of equal slices."""
    return image.unsqueeze(2).expand(-1, -1, depth, -1, -1)


@torch.no_grad()
def _to_volumes(model: nn.Module, image: Tensor, depth: Depth | None) -> nn.Module:
    result = crossd_ops.to_3d(model, "center", depth=depth)
    for tensor in tensors_of(result(volume_of(image[:1], slices_for(image)))):
        if not tensor.isfinite().all():
            raise AssertionError("the output of a volume is not finite")
    return result


def slices_for(image: Tensor) -> int:
    """As many as rows, unless that is too large a volume for a trial."""
    return max(DEPTH, image.shape[2] if image.shape[2] < 100 else 0)


def one_slice(model: nn.Module) -> dict[str, dict[str, int]]:
    """Options with which the layers of a network look at each slice of a volume on its own."""
    options: dict[str, dict[str, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            options[name or "model"] = {"kernel": 1, "stride": 1}
        elif type(module) in (nn.MaxPool2d, nn.AvgPool2d):
            options[name] = {"kernel": 1, "stride": 1, "padding": 0}
        elif type(module).__name__ in ("MaxPool2dSame", "AvgPool2dSame"):
            options[name] = {"kernel": 1, "stride": 1}
        elif type(module).__name__ == "BlurPool2d":
            options[name] = {"stride": 1}
        elif isinstance(module, nn.Upsample):
            options[name] = {"scale": 1} if module.size is None else {"size": 16}
    return options


def _train(model: nn.Module, image: Tensor) -> None:
    """One step of the way that the package is made for: 2D, Cross-D, 3D by the published recipe."""
    volumes = crossd_ops.to_3d(crossd_ops.to_crossd(model), depth=one_slice(model)).train()
    optimizer = torch.optim.SGD(volumes.parameters(), lr=1e-3)
    outputs = [*tensors_of(volumes(volume_of(image, 16 if "DeepLab" in type(model).__name__ else 2)))]
    loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
    loss.backward()
    gradients = [parameter.grad for parameter in volumes.parameters() if parameter.grad is not None]
    if not gradients or not all(gradient.isfinite().all() for gradient in gradients):
        raise AssertionError("a gradient is not finite, or there is none")
    optimizer.step()


@torch.no_grad()
def _back(model: nn.Module, volumes: nn.Module, image: Tensor) -> None:
    _assert_same(crossd_ops.to_2d(volumes, "center")(image), model(image))


def _assert_same(result: Any, expected: Any, tolerance: float = 1e-3) -> None:
    for value, wanted in zip(tensors_of(result), tensors_of(expected), strict=True):
        error = (value - wanted).abs().max().item() / max(wanted.abs().max().item(), 1e-12)
        if not error < tolerance:
            raise AssertionError(f"an output differs by {error:.1e} of its largest element")
