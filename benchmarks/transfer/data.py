"""Data of the transfer benchmark: slices of one labelled head to pretrain on, patches of another head to transfer to.

First head: the MNI152 template with the AAL atlas, see `head_dataset`. Second head: Colin27 (brain only) with the same
atlas on its own grid, 181 x 217 x 181 voxels of 1 mm, in the files of the Debian package mricron-data. Both arrays are
turned to (z, y, x): an axial slice then is one along axis 0, the depth of a volume, a coronal along 1, a sagittal
along 2.

The classes are the regions that the atlas has on both sides, left and right taken as one: 54. The regions of the
vermis have no sides and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.head_dataset import load_labelled_head

SECOND_HEAD_FOLDER = Path("/usr/share/mricron/templates")
SECOND_HEAD_FILES = ("ch2bet.nii.gz", "aal.nii.gz", "aal.nii.txt")
PLANES = ("axial", "coronal", "sagittal")

# Slices by their number modulo the period: a held-out slice lies 3 mm from the nearest one that is trained on.
_SLICE_PERIOD, _TRAINING_SLICES, _HELD_OUT_SLICE = 12, range(0, 7), 9


@dataclass(frozen=True)
class Scale:
    """How much data is cut from the heads."""

    size: int = 16  # voxels along each side of a patch
    spacing: int = 3  # mm from voxel to voxel
    slices_per_class: int = 200
    held_out_per_class: int = 24
    lattice: int = 8  # mm from centre to centre of the second head's patches


@dataclass(frozen=True)
class Head:
    """A T1 image, mean 0 and standard deviation 1 within the brain, and the class of each voxel, both (z, y, x)."""

    intensity: np.ndarray  # float32
    target: np.ndarray  # int16, -1: no class
    air: float


@dataclass(frozen=True)
class TransferData:
    """Labelled 2D images of the source and labelled volumes of the target; the classes need not be the same."""

    images: Tensor  # [N, C, S, S] float32
    image_targets: Tensor  # [N] int64, or [N, S, S] where every pixel has a class
    image_planes: Tensor  # [N] int64: index into PLANES; 0 where it is not known
    held_out_images: Tensor
    held_out_targets: Tensor
    held_out_planes: Tensor
    volumes: Tensor  # [M, C, S, S, S] float32
    volume_targets: Tensor  # [M] int64, or [M, S, S, S]
    volume_is_test_only: Tensor  # [M] bool: never to be trained on
    classes: tuple[int, int]  # of the images, of the volumes
    description: str

    @property
    def planes_known(self) -> bool:
        """Whether images of more than one plane are told apart."""
        return bool((self.image_planes != self.image_planes[0]).any())


def second_head_files(given: Iterable[str | Path] | None = None) -> tuple[Path, Path, Path]:
    """T1 image, atlas and names of the atlas' regions: the given files, or those of mricron-data.

    Raises:
        FileNotFoundError: a file is not there, with what provides it.
        ValueError: other than three files were given.
    """
    files = [Path(file) for file in given] if given else [SECOND_HEAD_FOLDER / name for name in SECOND_HEAD_FILES]
    if len(files) != 3:
        raise ValueError(f"--second-head: expected 3 files (T1, atlas, names), got {len(files)}")
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"second head: not found: {', '.join(missing)}. `apt-get install mricron-data` (Debian, Ubuntu; 16 MB) "
            f"provides {', '.join(SECOND_HEAD_FILES)}; --second-head T1 ATLAS NAMES says where they lie elsewhere"
        )
    return files[0], files[1], files[2]


def load_heads(files: tuple[Path, Path, Path]) -> tuple[Head, Head, list[str], dict[str, int]]:
    """Both heads, the names of their common paired classes, and the atlas' code of each (its first digit: a lobe)."""
    import nibabel

    first = load_labelled_head()
    image, atlas = (nibabel.load(file) for file in files[:2])
    if image.shape != atlas.shape or not np.allclose(image.affine, atlas.affine):
        raise ValueError(f"second head: expected one grid, got {image.shape} and {atlas.shape} or other affines")
    rows = [line.split() for line in files[2].read_text(encoding="utf-8").splitlines() if line.strip()]
    names = {int(row[0]): row[1] for row in rows}
    classes = sorted(paired_regions(first.names) & paired_regions(names))
    codes = {row[1][:-2]: int(row[2]) for row in rows if row[1].endswith("_L")}
    heads = [
        _normalised(first.intensity, first.region, first.names, classes),
        _normalised(np.asarray(image.dataobj), np.asarray(atlas.dataobj), names, classes),
    ]
    return heads[0], heads[1], classes, {name: codes[name] for name in classes}


def paired_regions(names: dict[int, str]) -> set[str]:
    """Names without side of the regions that are there on both sides."""
    found = set(names.values())
    return {name[:-2] for name in found if name.endswith("_L") and f"{name[:-2]}_R" in found}


def _normalised(intensity: np.ndarray, region: np.ndarray, names: dict[int, str], classes: list[str]) -> Head:
    values = intensity.astype(np.float32)
    brain = values[values > 0]
    lookup = np.full(max(int(region.max()), *names) + 1, -1, np.int16)
    for label, name in names.items():
        if name[:-2] in classes:
            lookup[label] = classes.index(name[:-2])
    mean, deviation = float(brain.mean()), float(brain.std())
    target = lookup[region.astype(np.int64)]
    return Head(((values - mean) / deviation).transpose(2, 1, 0), target.transpose(2, 1, 0), -mean / deviation)


def classification_data(files: tuple[Path, Path, Path], scale: Scale, planes: Iterable[str]) -> TransferData:
    """Which region lies at the centre: slices of the first head, cubes of the second head on a lattice.

    The voxels of the slices are drawn with a fixed seed: all runs see the same data.
    """
    source, target, classes, _ = load_heads(files)
    generator = np.random.default_rng(0)
    axes = [PLANES.index(plane) for plane in planes]
    parts = []
    for held_out, count in ((False, scale.slices_per_class), (True, scale.held_out_per_class)):
        centres, targets, normals = draw_centres(source.target, len(classes), axes, held_out, count, generator)
        cuts = [cut(source, centre, scale, int(axis)) for centre, axis in zip(centres, normals, strict=True)]
        images = torch.from_numpy(np.stack(cuts))[:, None]
        parts.append((images, torch.from_numpy(targets), torch.from_numpy(normals)))
    lattice = np.meshgrid(*(range(0, length, scale.lattice) for length in target.target.shape), indexing="ij")
    centres = np.stack(lattice, -1).reshape(-1, 3)
    labels = target.target[tuple(centres.T)]
    centres, labels = centres[labels >= 0], labels[labels >= 0].astype(np.int64)
    volumes = torch.from_numpy(np.stack([cut(target, centre, scale) for centre in centres]))[:, None]
    (images, targets, normals), (held_out_images, held_out_targets, held_out_normals) = parts
    return TransferData(
        images,
        targets,
        normals,
        held_out_images,
        held_out_targets,
        held_out_normals,
        volumes,
        torch.from_numpy(labels),
        torch.zeros(len(labels), dtype=torch.bool),
        (len(classes), len(classes)),
        f"{len(images)} slices of {scale.size} x {scale.size} ({', '.join(planes)}) of MNI152; {len(labels)} cubes of "
        f"{scale.size}^3 of Colin27, {scale.lattice} mm apart; voxels of {scale.spacing} mm, {len(classes)} regions",
    )


def draw_centres(
    target: np.ndarray, classes: int, axes: list[int], held_out: bool, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` voxels [N, 3] of every class, their classes, and the axes of their slices, on which they are shared out.

    Held-out voxels and others come from different slices along that axis.
    """
    phases = [_HELD_OUT_SLICE] if held_out else list(_TRAINING_SLICES)
    member = np.isin(np.arange(max(target.shape)) % _SLICE_PERIOD, phases)
    centres, normals = [], []
    for label in range(classes):
        candidates = np.argwhere(target == label)
        for position, axis in enumerate(axes):
            here = candidates[member[candidates[:, axis]]]
            wanted = (count + len(axes) - 1 - position) // len(axes)
            # The smallest regions (Heschl's gyrus, the amygdala) have fewer voxels on the slices that are held out.
            chosen = generator.choice(len(here), wanted, replace=len(here) < wanted)
            centres.append(here[chosen])
            normals.append(np.full(wanted, axis, np.int64))
    return np.concatenate(centres), np.repeat(np.arange(classes), count), np.concatenate(normals)


def cut(head: Head, centre: np.ndarray, scale: Scale, axis: int | None = None) -> np.ndarray:
    """The cube around a voxel, or, with an axis, its middle slice along it; beyond the grid there is air."""
    return _cut(head.intensity, head.air, centre, scale, axis)


def cut_targets(head: Head, centre: np.ndarray, scale: Scale, axis: int | None = None) -> np.ndarray:
    """The classes of the voxels that `cut` gives, int64; beyond the grid 0."""
    return _cut(head.target, 0, centre, scale, axis).astype(np.int64)


def _cut(array: np.ndarray, outside: float, centre: np.ndarray, scale: Scale, axis: int | None) -> np.ndarray:
    indices, inside = [], []
    for number, (middle, length) in enumerate(zip(centre, array.shape, strict=True)):
        offsets = (np.arange(scale.size) - scale.size // 2) * scale.spacing
        positions = middle + (np.zeros(1, np.int64) if number == axis else offsets)
        inside.append((positions >= 0) & (positions < length))
        indices.append(positions.clip(0, length - 1))
    result = array[np.ix_(*indices)].copy()
    result[~np.logical_and.outer(np.logical_and.outer(inside[0], inside[1]), inside[2])] = outside
    return result if axis is None else result.squeeze(axis)
