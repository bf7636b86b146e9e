"""MedMNIST files (medmnist.com) as data of the transfer benchmark: a 2D set to pretrain on, a 3D set to transfer to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.transfer.data import TransferData

_MOST_IMAGES, _MOST_VOLUMES = 10_800, 3_000


def medmnist_data(file_2d: Path, file_3d: Path) -> TransferData:
    """Images of `file_2d` to pretrain on; volumes of the training split of `file_3d`, and of its test split to test on.

    Colour images are reduced to grey. At most 10 800 images and 3 000 volumes of a split are used, the first ones of a
    fixed random order.

    Raises:
        ValueError: a file without the arrays of MedMNIST, of another number of axes, or with several labels an image.
    """
    images, targets = _split(file_2d, "train", 2, _MOST_IMAGES)
    held_out_images, held_out_targets = _split(file_2d, "val", 2, _MOST_IMAGES)
    volumes, volume_targets = _split(file_3d, "train", 3, _MOST_VOLUMES)
    test_volumes, test_targets = _split(file_3d, "test", 3, _MOST_VOLUMES)
    images, held_out_images = _scaled(images, images), _scaled(held_out_images, images)
    volumes, test_volumes = _scaled(volumes, volumes), _scaled(test_volumes, volumes)
    all_targets = torch.cat([volume_targets, test_targets])
    return TransferData(
        images,
        targets,
        torch.zeros(len(images), dtype=torch.int64),
        held_out_images,
        held_out_targets,
        torch.zeros(len(held_out_images), dtype=torch.int64),
        torch.cat([volumes, test_volumes]),
        all_targets,
        torch.arange(len(all_targets)) >= len(volumes),
        (int(targets.max()) + 1, int(all_targets.max()) + 1),
        f"{len(images)} images of {file_2d.name}; volumes of {file_3d.name}, tested on its test split",
    )


def _split(path: Path, part: str, axes: int, most: int) -> tuple[Tensor, Tensor]:
    names = (f"{part}_images", f"{part}_labels")
    with np.load(path) as arrays:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"{path}: expected a MedMNIST file, got one without {', '.join(missing)}")
        images, labels = (arrays[name] for name in names)
    if images.ndim == axes + 2 and images.shape[-1] == 3:
        images = images.mean(-1)
    if images.ndim != axes + 1:
        raise ValueError(f"{path}: expected images of {axes} axes, got an array of {images.shape}")
    if labels.shape[1:] not in ((), (1,)):
        raise ValueError(f"{path}: expected one label for each image, got {labels.shape}")
    chosen = np.random.default_rng(0).permutation(len(images))[:most]
    return torch.from_numpy(images[chosen]).float()[:, None], torch.from_numpy(labels[chosen].reshape(-1)).long()


def _scaled(images: Tensor, reference: Tensor) -> Tensor:
    return (images - reference.mean()) / reference.std()
