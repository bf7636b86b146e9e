"""Data of the segmentation task: the lobe or structure of every pixel, and of every voxel of another head.

The atlas' codes begin with a digit for frontal, insular, limbic, occipital, parietal, subcortical and temporal regions
and the cerebellum: 8 classes beside the background, 0. The volumes to train on come from one half of the second head,
those to test on from the other half, mirrored: no voxel is in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.transfer.data import PLANES, Head, Scale, TransferData, cut, cut_targets, draw_centres, load_heads

# Half the length of a patch from the middle of the head keeps it within its half.
_VOLUMES_PER_HALF = 48


def segmentation_data(files: tuple[Path, Path, Path], scale: Scale, planes: Iterable[str]) -> TransferData:
    """Slices of the first head and cubes of the second head, each with a map of classes; drawn with a fixed seed."""
    source, target, names, codes = load_heads(files)
    digits = sorted({code // 1000 for code in codes.values()})
    lobes = np.array([1 + digits.index(codes[name] // 1000) for name in names] + [0], np.int16)
    # The last entry is for the target -1, no region.
    source, target = (Head(head.intensity, lobes[head.target], head.air) for head in (source, target))
    generator = np.random.default_rng(0)
    axes = [PLANES.index(plane) for plane in planes]
    parts = []
    for held_out, count in ((False, scale.slices_per_class), (True, scale.held_out_per_class)):
        centres, _, normals = draw_centres(source.target - 1, len(digits), axes, held_out, count, generator)
        cuts = [
            (cut(source, centre, scale, int(axis)), cut_targets(source, centre, scale, int(axis)))
            for centre, axis in zip(centres, normals, strict=True)
        ]
        images, maps = (np.stack(each) for each in zip(*cuts, strict=True))
        parts.append((torch.from_numpy(images)[:, None], torch.from_numpy(maps), torch.from_numpy(normals)))
    (images, maps, normals), (held_out_images, held_out_maps, held_out_normals) = parts
    mirrored = Head(target.intensity[:, :, ::-1], target.target[:, :, ::-1], target.air)
    halves = [_cubes_of_left_half(head, scale, generator) for head in (target, mirrored)]
    volumes, volume_maps = (torch.cat(each) for each in zip(*halves, strict=True))
    return TransferData(
        images,
        maps,
        normals,
        held_out_images,
        held_out_maps,
        held_out_normals,
        volumes,
        volume_maps,
        torch.arange(len(volumes)) >= len(halves[0][0]),
        (1 + len(digits), 1 + len(digits)),
        f"{len(images)} slices of {scale.size} x {scale.size} ({', '.join(planes)}) of MNI152; cubes of {scale.size}^3 "
        f"of Colin27, trained on in one half of the head, tested on in the other; voxels of {scale.spacing} mm, "
        f"{len(digits)} lobes and structures",
    )


def _cubes_of_left_half(head: Head, scale: Scale, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cubes around random voxels with a class that do not cross the middle of the last axis."""
    candidates = np.argwhere(head.target > 0)
    reach = scale.size // 2 * scale.spacing
    candidates = candidates[candidates[:, 2] < head.target.shape[2] // 2 - reach]
    centres = candidates[generator.choice(len(candidates), _VOLUMES_PER_HALF, replace=False)]
    volumes = torch.from_numpy(np.stack([cut(head, centre, scale) for centre in centres]))[:, None]
    return volumes, torch.from_numpy(np.stack([cut_targets(head, centre, scale) for centre in centres]))
