"""A small Cross-D network trained on real images: with the fused operator and with the FFT expansion.

Same initial weights, same batches in the same order. The two take turns, one step each, so that a busy machine slows
both alike.

Training amplifies rounding differences step by step, between any two correct implementations. Two controls tell that
from an error: the fused run once more from weights changed by about one rounding, which shows how far apart rounding
alone drives the losses; and both runs in float64, where rounding starts so small that the curves stay together.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import crossd_ops
from benchmarks.head_dataset import PatchDataset
from benchmarks.timing import summarize

# Over so many steps the largest difference of the losses is reported by itself: rounding, before it grows.
EARLY_STEPS = 5
# Their time goes to allocation and first calls.
_WARM_UP_STEPS = 2
_CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class TrainingSettings:
    """Size of the network and of the run."""

    steps: int
    float64_steps: int
    batch: int
    channels: tuple[int, int, int, int]
    learning_rate: float = 0.01
    momentum: float = 0.9


@dataclass
class _Run:
    """One of the networks in training, and what was measured of it."""

    backend: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    dtype: torch.dtype
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)


class RegionClassifier(nn.Sequential):
    """Four Cross-D convolutions, each with batch normalisation and ReLU, pooling between, and a linear classifier."""

    def __init__(self, channels: tuple[int, int, int, int], classes: int) -> None:
        layers: list[nn.Module] = []
        for position, (in_channels, out_channels) in enumerate(zip((1, *channels), channels, strict=False)):
            convolution = crossd_ops.CrossDConv2d(in_channels, out_channels, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
            if position < len(channels) - 1:
                layers.append(nn.AvgPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], classes))


def benchmark_training(
    dataset: PatchDataset,
    settings: TrainingSettings,
    device: torch.device,
    *,
    seed: int,
    finish: Callable[[str], None],
) -> dict[str, Any]:
    """Losses, step times and held-out accuracies, as plain JSON values; `finish` is told the losses after each step."""
    torch.manual_seed(seed)
    initial = RegionClassifier(settings.channels, len(dataset.names)).to(device)
    backend = crossd_ops.backend(device)
    runs = {
        "fused": _start_run(initial, backend, settings),
        "expansion": _start_run(initial, "reference", settings),
        "fused_perturbed": _start_run(_perturbed(initial, seed), backend, settings),
    }
    _train(runs, dataset, settings, settings.steps, device, seed, finish)
    float64_runs = {
        "fused": _start_run(initial, backend, settings, torch.float64),
        "expansion": _start_run(initial, "reference", settings, torch.float64),
    }
    _train(float64_runs, dataset, settings, settings.float64_steps, device, seed, finish)

    medians = {name: summarize(run.step_seconds[_WARM_UP_STEPS:]).median for name, run in runs.items()}
    return {
        "steps": settings.steps,
        "batch": settings.batch,
        "channels": list(settings.channels),
        "optimizer": f"SGD, learning rate {settings.learning_rate}, momentum {settings.momentum}",
        "classes": dataset.names,
        "patch_size": dataset.train_images.shape[-1],
        "train_patches": len(dataset.train_targets),
        "held_out_patches": len(dataset.held_out_targets),
        "parameters": sum(parameter.numel() for parameter in initial.parameters()),
        "runs": {
            name: {
                "backend": run.backend,
                "losses": run.losses,
                "step_seconds": run.step_seconds,
                "median_step_seconds": medians[name],
                "held_out_accuracy": _accuracy(run, dataset, settings.batch, device),
            }
            for name, run in runs.items()
        },
        "times_faster": medians["expansion"] / medians["fused"],
        "loss_difference": _loss_difference(runs["fused"], runs["expansion"]),
        "loss_difference_of_perturbed": _loss_difference(runs["fused"], runs["fused_perturbed"]),
        "loss_difference_in_float64": _loss_difference(float64_runs["fused"], float64_runs["expansion"]),
    }


def _start_run(
    initial: nn.Module, backend: str, settings: TrainingSettings, dtype: torch.dtype = torch.float32
) -> _Run:
    model = copy.deepcopy(initial).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    return _Run(backend, model, optimizer, dtype)


@torch.no_grad()
def _perturbed(initial: nn.Module, seed: int) -> nn.Module:
    """A copy whose every parameter is changed by a random relative amount of about one float32 rounding."""
    model = copy.deepcopy(initial)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        parameter.mul_(1 + torch.finfo(torch.float32).eps * noise)
    return model


def _train(
    runs: dict[str, _Run],
    dataset: PatchDataset,
    settings: TrainingSettings,
    steps: int,
    device: torch.device,
    seed: int,
    finish: Callable[[str], None],
) -> None:
    images, targets = dataset.train_images.to(device), dataset.train_targets.to(device)
    for indices in _batches(len(targets), settings.batch, steps, seed):
        for run in runs.values():
            _train_step(run, images[indices].to(run.dtype), targets[indices], device)
        finish(f"loss {runs['fused'].losses[-1]:.3f}, by expansion {runs['expansion'].losses[-1]:.3f}")


def _batches(patches: int, batch: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of `steps` batches; a new permutation begins where the old one has no full batch left."""
    if batch > patches:
        raise ValueError(f"batch: expected at most {patches}, the number of training patches, got {batch}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(patches, generator=generator)
        indices, order = order[:batch], order[batch:]
        yield indices


def _train_step(run: _Run, images: torch.Tensor, targets: torch.Tensor, device: torch.device) -> None:
    _synchronize(device)
    start = time.perf_counter()
    with crossd_ops.use_backend(run.backend):
        loss = nn.functional.cross_entropy(run.model(images), targets)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
    _synchronize(device)
    run.step_seconds.append(time.perf_counter() - start)
    run.losses.append(loss.item())


@torch.no_grad()
def _accuracy(run: _Run, dataset: PatchDataset, batch: int, device: torch.device) -> float:
    """Share of held-out patches whose region is predicted.

    A run of a few dozen steps leaves batch normalisation's running averages far behind the weights, so they are first
    taken anew, as plain averages over training patches.
    """
    for module in run.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with crossd_ops.use_backend(run.backend):
        for indices in _batches(len(dataset.train_targets), batch, _CALIBRATION_BATCHES, seed=0):
            run.model(dataset.train_images[indices].to(device))
        run.model.eval()
        predicted = [run.model(images.to(device)).argmax(1).cpu() for images in dataset.held_out_images.split(batch)]
    return (torch.cat(predicted) == dataset.held_out_targets).double().mean().item()


def _loss_difference(first: _Run, second: _Run) -> dict[str, Any]:
    """Absolute difference of the losses at each step, its largest value over the first steps and over all."""
    differences = [abs(one - other) for one, other in zip(first.losses, second.losses, strict=True)]
    return {
        "each_step": differences,
        "early_steps": min(EARLY_STEPS, len(differences)),
        "largest_early": max(differences[:EARLY_STEPS]),
        "largest": max(differences),
    }


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
