"""Draws the pictures of docs/mathematics.md: kernels that the package shifts, and the Dirichlet kernels that do it.

python docs/figures.py [--out FOLDER]        default: docs/figures
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

from crossd_ops import fourier_shift, fourier_shift_slice, reference, rotation_shift

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

KERNEL_SIZES = (3, 7)


def oriented_kernel(size: int) -> Tensor:
    """A 3D edge detector (1, 1, K, K, K), float64: the derivative of a Gaussian, slanted against all three axes."""
    axis = (torch.arange(size, dtype=torch.float64) - size // 2) / (size / 3)
    depth, height, width = torch.meshgrid(axis, axis, axis, indexing="ij")
    bell = torch.exp(-(depth**2 + height**2 + width**2))
    kernel = (0.3 * depth + 0.3 * height + width) * bell
    return (kernel / kernel.abs().max())[None, None]


def show(axes: Axes, plane: Tensor, title: str = "") -> None:
    """One plane (K, K) in colours from -1, blue, over 0, white, to 1, red."""
    axes.imshow(plane.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    size = plane.shape[0]
    axes.set_xticks(torch.arange(size - 1).add(0.5).tolist(), labels=[])
    axes.set_yticks(torch.arange(size - 1).add(0.5).tolist(), labels=[])
    axes.tick_params(length=0)
    axes.grid(color="0.8", linewidth=0.6)
    if title:
        axes.set_title(title, fontsize=9)


def draw_shifts() -> Figure:
    """The middle slice, the 2D weight, at shifts along the width, then along the depth."""
    shifts = [(0.0, 0.0, s) for s in (0.0, 0.25, 0.5, 0.75, 1.0)] + [(s, 0.0, 0.0) for s in (0.5, 1.0)]
    figure, rows = plt.subplots(len(KERNEL_SIZES), len(shifts), figsize=(11, 3.7), layout="constrained")
    for row, size in zip(rows, KERNEL_SIZES, strict=True):
        planes = fourier_shift_slice(oriented_kernel(size), torch.tensor(shifts, dtype=torch.float64))[:, 0, 0]
        for axes, plane, (d, h, w) in zip(row, planes, shifts, strict=True):
            show(axes, plane, f"s = ({d:g}, {h:g}, {w:g})" if size == KERNEL_SIZES[0] else "")
        row[0].set_ylabel(f"K = {size}\nheight")
    for axes in rows[-1]:
        axes.set_xlabel("width", fontsize=8)
    return figure


def draw_angles() -> Figure:
    """The middle slice at angles about one axis: what a head of the published layer can reach."""
    degrees = (-45, -30, -15, 0, 15, 30, 45)
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    axis = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64).expand(len(degrees), 3) / math.sqrt(2)
    shifts = rotation_shift(axis, angles)
    figure, rows = plt.subplots(len(KERNEL_SIZES), len(degrees), figsize=(11, 3.9), layout="constrained")
    for row, size in zip(rows, KERNEL_SIZES, strict=True):
        planes = fourier_shift_slice(oriented_kernel(size), shifts)[:, 0, 0]
        for axes, plane, angle, shift in zip(row, planes, degrees, shifts.tolist(), strict=True):
            numbers = ", ".join(f"{value:.2f}" for value in shift)
            show(axes, plane, f"{angle}°\ns = ({numbers})" if size == KERNEL_SIZES[0] else "")
        row[0].set_ylabel(f"K = {size}\nheight")
    for axes in rows[-1]:
        axes.set_xlabel("width", fontsize=8)
    return figure


def rotated(kernel: Tensor, matrix: Tensor) -> Tensor:
    """The kernel (1, 1, K, K, K) really turned: value at p = kernel at matrix^T p, trilinear, 0 outside."""
    # affine_grid counts (x, y, z), the matrix (d, h, w).
    affine = F.pad(matrix.T.flip(0, 1), (0, 1))[None]
    grid = F.affine_grid(affine, list(kernel.shape), align_corners=False)
    return F.grid_sample(kernel, grid, align_corners=False)


def draw_translation() -> Figure:
    """A rotation by 45 degrees about the depth axis, beside what the published phase does: it translates."""
    kernel = oriented_kernel(7)
    axis, angle = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([math.pi / 4], dtype=torch.float64)
    shift = rotation_shift(axis, angle, rotation="exact")
    turned = rotated(kernel, reference.rotation_matrix(axis, angle, "exact")[0])
    still = fourier_shift(kernel, torch.zeros_like(shift))[0, 0, 0]
    moved = fourier_shift(kernel, shift)[0, 0, 0]
    numbers = ", ".join(f"{value:.2f}" for value in shift[0].tolist())
    titles = (
        "the weight W",
        "W rotated by 45°\n(not what is computed)",
        f"what is computed:\nW shifted by ({numbers})",
    )
    figure, rows = plt.subplots(1, 3, figsize=(7.2, 2.9), layout="constrained")
    for axes, volume, title in zip(rows, (still, turned[0, 0], moved), titles, strict=True):
        show(axes, volume[3], title)
        axes.set_xlabel("width")
    rows[0].set_ylabel("height (slice 3 of the depth)")
    return figure


def dirichlet(size: int, offset: Tensor) -> Tensor:
    """d at offsets x = n - s: 1/K sum of exp(2 pi i f x) over f in fftfreq(K); complex128."""
    frequencies = torch.fft.fftfreq(size, dtype=torch.float64)
    return torch.exp(2j * torch.pi * frequencies * offset[:, None]).mean(1)


def draw_dirichlet() -> Figure:
    """d over the offset x = n - s: real for odd K, with an imaginary part for even K; dots: the K taps at s = 0.4."""
    sizes, shift = (3, 7, 4, 8), 0.4
    figure, columns = plt.subplots(1, len(sizes), figsize=(12, 3.1), sharey=True, layout="constrained")
    parts: tuple[tuple[Callable[[Tensor], Tensor], str, str], ...] = (
        (torch.real, "C0", "real part a"),
        (torch.imag, "C1", "imaginary part b"),
    )
    for axes, size in zip(columns, sizes, strict=True):
        taps = torch.arange(-(size // 2), (size + 1) // 2, dtype=torch.float64) - shift
        line = torch.linspace(taps[0].item() - 0.3, taps[-1].item() + 0.7, 401, dtype=torch.float64)
        for part, colour, name in parts[: 1 if size % 2 else 2]:
            axes.plot(line, part(dirichlet(size, line)), colour, linewidth=1, label=name)
            markers = axes.stem(taps, part(dirichlet(size, taps)), linefmt=colour, markerfmt="o", basefmt=" ")
            markers.markerline.set_markersize(5)
        axes.axhline(0, color="0.6", linewidth=0.6)
        axes.set_title(f"K = {size} ({'odd' if size % 2 else 'even'})", fontsize=10)
        axes.set_xlabel("x = n - s, elements")
    columns[0].set_ylabel("d")
    columns[2].legend(fontsize=8, loc="upper left")
    return figure


FIGURES = {
    "shifts": draw_shifts,
    "angles": draw_angles,
    "translation": draw_translation,
    "dirichlet": draw_dirichlet,
}


def main(arguments: list[str] | None = None) -> None:
    """Draws every figure into the folder."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/mathematics.md.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "figures", help="folder (default: %(default)s)"
    )
    folder: Path = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw()
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
