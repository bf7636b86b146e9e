"""Images for the training script: MedMNIST files, a folder of pictures, or slices of a real head; and their order.

The order depends on seed and epoch alone, so a run that resumes knows what it has already seen from its position.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_HEAD_PATCHES = {"regions": 24, "train_per_region": 64, "held_out_per_region": 12}
# Of every so many axial slices of the head, the first ones are trained on; one, 3 mm from them, is held out.
_SLICE_PERIOD, _TRAINING_SLICES, _HELD_OUT_SLICE = 12, range(0, 7), 9


@dataclass(frozen=True)
class TrainingData:
    """Training and validation images: each item is an image (C, H, W), float32, and its class or map of classes."""

    train: Dataset[tuple[Tensor, Tensor]]
    validation: Dataset[tuple[Tensor, Tensor]]
    classes: int
    shape: tuple[int, int, int]  # channels, height, width
    dense: bool  # whether the target is a map of classes
    in_memory: bool

    @property
    def description(self) -> str:
        """What a checkpoint remembers of the data."""
        target = "maps" if self.dense else "labels"
        counts = f"{len(self.train)} + {len(self.validation)} images"
        return f"{counts} of {'x'.join(map(str, self.shape))}, {target} of {self.classes} classes"


class ArrayImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, shifted and scaled by fixed numbers."""

    def __init__(self, images: Tensor, targets: Tensor, mean: float, deviation: float) -> None:
        self.images, self.targets = images, targets
        self._mean, self._deviation = mean, deviation

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return (self.images[index].float() - self._mean) / self._deviation, self.targets[index]


class FolderImages(Dataset[tuple[Tensor, Tensor]]):
    """Pictures in a folder for each class: RGB, the shorter side scaled to `size`, the middle cut out, -2 to 2."""

    def __init__(self, folder: Path, classes: list[str], size: int) -> None:
        self._size = size
        self._files = [
            (path, number)
            for number, name in enumerate(classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in _PICTURES
        ]
        if not self._files:
            raise ValueError(f"--data: expected pictures ({', '.join(_PICTURES)}) in {folder}/<class>, got none")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image, ImageOps

        path, target = self._files[index]
        try:
            with Image.open(path) as picture:
                pixels = np.array(ImageOps.fit(picture.convert("RGB"), (self._size, self._size)))
        except OSError as error:
            raise ValueError(f"--data: expected a picture, got {path} ({error})") from error
        image = torch.from_numpy(pixels).permute(2, 0, 1).float()
        return (image / 255 - 0.5) / 0.25, torch.tensor(target)


def load_training_data(source: str, *, model: str, size: int, seed: int) -> TrainingData:
    """`source`: "head", a MedMNIST file (.npz), or a folder with `train/<class>/` and `val/<class>/`."""
    if source == "head":
        data = _head_slices() if model == "unet" else _head_patches(seed)
    elif Path(source).is_dir():
        data = _folder(Path(source), size)
    elif Path(source).is_file():
        data = _arrays(Path(source))
    else:
        raise ValueError(f"--data: expected `head`, a file or a folder, got {source}, which does not exist")
    if data.dense != (model == "unet"):
        expected = "a map of classes for each image (N, H, W)" if model == "unet" else "one class for each image"
        raise ValueError(f"--data: expected {expected} for {model}, got {data.description}")
    if data.dense and (data.shape[1] % 16 or data.shape[2] % 16):
        raise ValueError(f"--data: expected height and width to be multiples of 16 for unet, got {data.shape[1:]}")
    return data


def make_loader(
    data: Dataset[tuple[Tensor, Tensor]], batches: list[list[int]], *, workers: int, pinned: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Loads the given batches; takes nothing from torch's own random numbers, so that it may begin anew anywhere."""
    return DataLoader(
        data, batch_sampler=batches, num_workers=workers, pin_memory=pinned, generator=torch.Generator().manual_seed(0)
    )


def training_batches(images: int, batch: int, *, seed: int, epoch: int, rank: int, world: int) -> list[list[int]]:
    """Indices of each batch of this process in this epoch; images that fill no batch for every process are left out."""
    if batch * world > images:
        raise ValueError(f"--batch: expected at most {images // world} ({images} training images), got {batch}")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    starts = range(0, images - batch * world + 1, batch * world)
    return [order[start + rank * batch : start + (rank + 1) * batch] for start in starts]


def validation_batches(images: int, batch: int, *, rank: int, world: int) -> list[list[int]]:
    """Indices of this process' share of the validation images."""
    share = list(range(rank, images, world))
    return [share[start : start + batch] for start in range(0, len(share), batch)]


def _arrays(path: Path) -> TrainingData:
    names = [f"{part}_{kind}" for part in ("train", "val") for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            arrays = {name: file[name] for name in names if name not in missing}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"--data: expected a .npz file of arrays, got {path} ({error})") from error
    if missing:
        raise ValueError(f"--data: expected the arrays {', '.join(names)}, got {path} without {', '.join(missing)}")
    images = {part: _channels_first(arrays[f"{part}_images"], f"{part}_images") for part in ("train", "val")}
    targets = {}
    for part in images:
        targets[part] = _targets(arrays[f"{part}_labels"], f"{part}_labels", images[part])
    if images["train"].shape[1:] != images["val"].shape[1:]:
        raise ValueError(f"val_images: expected {images['train'].shape[1:]} each, got {images['val'].shape[1:]}")
    mean, deviation = images["train"].double().mean().item(), images["train"].double().std().item() or 1.0
    return TrainingData(
        *(ArrayImages(images[part], targets[part], mean, deviation) for part in ("train", "val")),
        classes=1 + max(int(labels.max()) for labels in targets.values()),
        shape=tuple(images["train"].shape[1:]),
        dense=targets["train"].dim() == 3,
        in_memory=True,
    )


def _channels_first(images: np.ndarray[Any, Any], name: str) -> Tensor:
    if images.ndim not in (3, 4) or len(images) == 0 or not np.issubdtype(images.dtype, np.number):
        raise ValueError(f"{name}: expected numbers (N, H, W) or (N, H, W, C), got {images.dtype} {images.shape}")
    return torch.from_numpy(np.ascontiguousarray(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)))


def _targets(labels: np.ndarray[Any, Any], name: str, images: Tensor) -> Tensor:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape not in (images.shape[:1], (len(images), *images.shape[2:])):
        expected = f"({len(images)},), ({len(images)}, 1) or ({len(images)}, H, W)"
        raise ValueError(f"{name}: expected one class for each image or pixel, {expected}, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(f"{name}: expected integers from 0, got {labels.dtype} from {labels.min()}")
    return torch.from_numpy(labels.astype(np.int64))


def _folder(folder: Path, size: int) -> TrainingData:
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise ValueError(f"--data: expected the folders train/<class> and val/<class>, got {folder} without {part}")
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    unknown = {path.name for path in (folder / "val").iterdir() if path.is_dir()} - set(classes)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"--data: expected the classes of train in {folder / 'val'}, got {names} too")
    train, validation = (FolderImages(folder / part, classes, size) for part in ("train", "val"))
    return TrainingData(train, validation, len(classes), (3, size, size), dense=False, in_memory=False)


def _head_patches(seed: int) -> TrainingData:
    from benchmarks.head_dataset import load_labelled_head, make_patches

    patches = make_patches(load_labelled_head(), **_HEAD_PATCHES, seed=seed)
    train = ArrayImages(patches.train_images, patches.train_targets, 0.0, 1.0)
    validation = ArrayImages(patches.held_out_images, patches.held_out_targets, 0.0, 1.0)
    shape = tuple(patches.train_images.shape[1:])
    return TrainingData(train, validation, len(patches.names), shape, dense=False, in_memory=True)


def _head_slices() -> TrainingData:
    """Axial slices with the region of every pixel, class 0 where there is none, with air up to multiples of 16."""
    from benchmarks.head_dataset import load_labelled_head

    head = load_labelled_head()
    margins = [(0, -length % 16) for length in head.region.shape[:2]]
    images = torch.from_numpy(np.pad(head.intensity, [*margins, (0, 0)])).permute(2, 0, 1)[:, None]
    targets = torch.from_numpy(np.pad(head.region, [*margins, (0, 0)]).astype(np.int64)).permute(2, 0, 1)
    labelled = [number for number in range(len(targets)) if targets[number].any()]
    train = [number for number in labelled if number % _SLICE_PERIOD in _TRAINING_SLICES]
    held_out = [number for number in labelled if number % _SLICE_PERIOD == _HELD_OUT_SLICE]
    mean, deviation = images[train].mean().item(), images[train].std().item()
    parts = (ArrayImages(images[part], targets[part], mean, deviation) for part in (train, held_out))
    shape = tuple(images.shape[1:])
    return TrainingData(*parts, classes=1 + max(head.names), shape=shape, dense=True, in_memory=True)
