"""The table of the sweep, a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.families.steps import STEPS
from benchmarks.tables import format_table

_HEAD = """# Networks that convert

Written by `python -m benchmarks.families`; a network that you miss can be added to `benchmarks/families/networks.py`.
Of each family one of the smallest members stands for the others, without pretrained weights. Each column is a step:

- *to Cross-D*: `to_crossd` gives a network with the same output.
- *volumes*: what `to_3d(model, "center")` made of it ran on a volume.
- *proof*: `crossd_ops.conversion.check_volumes`: on a volume of equal slices every module, each by itself, gave in each
  slice what it gives on the image, in float64, to 1e-4 of its largest element.
- *training step*: `to_3d(to_crossd(model), depth=...)` took one, with kernels one slice deep and finite gradients.
- *back to 2D*: `to_2d` gave the output of the original.

"no" is an error of this package, with the reason below; "fails" is any other. "-" was not tried, after a "no" before.
"""
_SHORT = {"yes": "yes", "": "-"}


def write_table(results: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Writes the page: counts, the table, and the reasons."""
    rows, reasons = [], []
    for name, outcome in results.items():
        cells = [outcome.get(step, "") for step in STEPS]
        rows.append([name, *(_SHORT.get(cell, "no" if cell.startswith("refused") else "fails") for cell in cells)])
        for step, cell in zip(STEPS, cells, strict=True):
            if cell not in _SHORT:
                reasons.append(f"- {name}, {step}: {cell.partition(': ')[2] if cell.startswith('refused') else cell}")
    parts = [_HEAD, _counts(results), format_table(["network", *STEPS], rows)]
    if reasons:
        parts.append("\n## Why not\n\n" + "\n".join(reasons))
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _counts(results: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for title, chosen in (
        ("families of timm", {name: outcome for name, outcome in results.items() if name.startswith("timm/")}),
        ("other networks", {name: outcome for name, outcome in results.items() if not name.startswith("timm/")}),
    ):
        counts = [sum(outcome.get(step) == "yes" for outcome in chosen.values()) for step in STEPS]
        lines.append(
            f"{len(chosen)} {title}: "
            + ", ".join(f"{step} {count}" for step, count in zip(STEPS, counts, strict=True))
            + "."
        )
    return "\n".join(lines) + "\n"
