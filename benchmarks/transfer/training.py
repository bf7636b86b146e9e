"""Pretraining in 2D and transfer to 3D: the same optimiser, schedule and batch normalisation for every recipe.

Batch normalisation, everywhere alike: its statistics, scale and offset are reset when the network becomes 3D, they are
trained by both protocols, and the evaluation uses the running statistics. "Frozen" freezes the convolutions (of a
Cross-D layer the head too).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.transfer.data import PLANES, TransferData
from benchmarks.transfer.models import build_network

PROTOCOLS = ("all trained", "frozen")


@dataclass(frozen=True)
class StepContext:
    """What is known before a step of the pretraining."""

    generator: torch.Generator
    plane: int  # of the batch's images, 0 where batches are mixed
    progress: float  # share of the training that is done, from 0 to 1
    images: Tensor  # all that are trained on


# Sets up the layers of the network for the step.
BeforeStep = Callable[[nn.Module, StepContext], None]


@dataclass(frozen=True)
class Schedule:
    """How long is trained; learning rates rise and fall in one cycle (Smith and Topin, arXiv 1708.07120)."""

    pretraining_epochs: int = 6
    transfer_epochs: int = 24
    pretraining_batch: int = 50
    transfer_batch: int = 27
    pretraining_rate: float = 2e-3
    transfer_rate: float = 1e-2
    frozen_rate: float = 2e-2
    labels_per_class: int = 3


def pretrain(
    data: TransferData,
    task: str,
    conv: str,
    schedule: Schedule,
    seed: int,
    before_step: BeforeStep | None = None,
    batches_of_one_plane: bool = False,
    prepare: Callable[[nn.Module], None] | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
) -> nn.Module:
    """Train the 2D network of a task on the images of the source.

    Args:
        data, task, conv, schedule: see there and `build_network`.
        seed: of the weights and the order.
        before_step: called before every step.
        batches_of_one_plane: make every batch of images of one plane, which `before_step` is told (else 0).
        prepare: called with the new network.
        penalty: added to the loss.
    """
    torch.manual_seed(seed)
    network = build_network(task, conv, data.classes[0], data.images.shape[1])
    if prepare is not None:
        prepare(network)
    generator = torch.Generator().manual_seed(seed)
    planes = data.image_planes if batches_of_one_plane else torch.zeros_like(data.image_planes)
    batches = [
        batch
        for _ in range(schedule.pretraining_epochs)
        for batch in _epoch(planes, schedule.pretraining_batch, generator)
    ]
    optimiser, scheduler = _optimiser(network, schedule.pretraining_rate, len(batches))
    network.train()
    for number, batch in enumerate(batches):
        if before_step is not None:
            plane, progress = int(planes[batch[0]]), number / len(batches)
            before_step(network, StepContext(generator, plane, progress, data.images))
        _step(network, optimiser, data.images[batch], data.image_targets[batch], penalty)
        scheduler.step()
    return network


def _epoch(planes: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """All images once in random order, in whole batches each from one of the planes given."""
    batches: list[Tensor] = []
    for plane in range(len(PLANES)):
        members = (planes == plane).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        batches += members[: len(members) // size * size].split(size) if len(members) >= size else []
    if not batches:
        raise ValueError(f"images: expected at least {size} of one plane, got {len(planes)} in all")
    return [batches[position] for position in torch.randperm(len(batches), generator=generator)]


def transfer(
    network: nn.Module, data: TransferData, schedule: Schedule, protocol: str, seed: int
) -> tuple[float, float]:
    """Train a 3D network on a few labelled volumes; returns its score on the others and its last training loss.

    Args:
        network: 3D, with the module `classifier`, which is replaced; left as it is.
        data, schedule: as of the pretraining.
        protocol: one of PROTOCOLS.
        seed: of the choice of the labelled volumes, the classifier and the order.
    """
    network = copy.deepcopy(network)
    torch.manual_seed(seed)
    _reset_classifier(network, data.classes[1])
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
    if protocol == "frozen":
        _freeze_convolutions(network)
    labelled, held_out = choose_volumes(data, schedule.labels_per_class, seed)
    batches = [
        batch
        for _ in range(schedule.transfer_epochs)
        for batch in labelled[torch.randperm(len(labelled))].split(schedule.transfer_batch)
    ]
    rate = schedule.frozen_rate if protocol == "frozen" else schedule.transfer_rate
    optimiser, scheduler = _optimiser(network, rate, len(batches))
    network.train()
    loss = 0.0
    for batch in batches:
        loss = _step(network, optimiser, data.volumes[batch], data.volume_targets[batch])
        scheduler.step()
    return score(network, data.volumes, data.volume_targets, held_out, data.classes[1]), loss


def choose_volumes(data: TransferData, labels_per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the volumes to train on, `labels_per_class` of each class, and of all others.

    Where every voxel has a class, `labels_per_class` volumes for each class in all, drawn at random.
    """
    generator = torch.Generator().manual_seed(seed)
    candidates = (~data.volume_is_test_only).nonzero()[:, 0]
    candidates = candidates[torch.randperm(len(candidates), generator=generator)]
    if data.volume_targets.dim() > 1:
        labelled = candidates[: labels_per_class * data.classes[1]]
        return labelled, data.volume_is_test_only.nonzero()[:, 0]
    targets = data.volume_targets[candidates]
    labelled = torch.cat([candidates[targets == label][:labels_per_class] for label in range(data.classes[1])])
    rest = torch.ones(len(data.volumes), dtype=torch.bool)
    rest[labelled] = False
    if data.volume_is_test_only.any():
        rest &= data.volume_is_test_only
    return labelled, rest.nonzero()[:, 0]


@torch.no_grad()
def score(network: nn.Module, inputs: Tensor, targets: Tensor, indices: Tensor, classes: int) -> float:
    """Share of right answers; where every pixel has a class, the mean Dice coefficient of the classes from 1 on."""
    network.eval()
    batch = 256 if targets.dim() == 1 else 16
    predicted = torch.cat([network(inputs[part]).argmax(1) for part in indices.split(batch)])
    expected = targets[indices]
    if targets.dim() == 1:
        return (predicted == expected).double().mean().item()
    pairs = torch.bincount((expected * classes + predicted).flatten(), minlength=classes**2).view(classes, classes)
    dice = 2 * pairs.diagonal().double() / (pairs.sum(0) + pairs.sum(1)).clamp(min=1)
    return dice[1:].mean().item()


def _reset_classifier(network: nn.Module, classes: int) -> None:
    old = network.classifier
    if isinstance(old, nn.Linear):
        network.classifier = nn.Linear(old.in_features, classes)
    else:
        network.classifier = nn.Conv3d(old.in_channels, classes, 1)


def _freeze_convolutions(network: nn.Module) -> None:
    trained = {
        id(parameter)
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and "rotation_params" not in name
        for parameter in module.parameters()
    } | {id(parameter) for parameter in network.classifier.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def _optimiser(
    network: nn.Module, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=1e-2)
    # One step more than is taken: the scheduler's last call must not run past the end of the cycle.
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1)


def _step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    penalty: Callable[[nn.Module], Tensor] | None = None,
) -> float:
    loss = F.cross_entropy(network(inputs), targets)
    if penalty is not None:
        loss = loss + penalty(network)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
