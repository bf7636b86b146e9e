"""What was counted and measured, as a table, as plain values for JSON, and as a bar chart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...tuning.choice import METHODS
from .measurement import PLAIN, Row


def as_table(rows: Sequence[Row]) -> str:
    """Milliseconds of each method, measured or, marked with ~, by counting; * what the library chooses."""
    head = ["layers", "convolution", "", PLAIN, *METHODS, "chosen because"]
    lines = [head]
    for row in rows:
        name = row.layers[0] + (f" and {len(row.layers) - 1} more" if len(row.layers) > 1 else "")
        cells = [_cell(row, method) for method in (PLAIN, *METHODS)]
        lines.append([name, str(row.problem), row.direction, *cells, _why(row)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    aligned = [
        "  ".join(
            cell.rjust(width) if 3 <= column < 3 + 1 + len(METHODS) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*aligned, *_totals(rows)])


def _cell(row: Row, method: str) -> str:
    cost = row.choice.costs[method]
    chosen = "*" if method == row.choice.method else ""
    if method in row.seconds:
        return f"{chosen}{1e3 * row.seconds[method]:.3g}"
    if row.seconds or not cost.possible:
        return "-"
    if cost.seconds is None:  # a CPU: no rates are known
        return f"{chosen}{cost.bytes / 1e6:.3g} MB"
    return f"{chosen}~{1e3 * cost.seconds:.3g}"


def _why(row: Row) -> str:
    quickest = row.quickest
    if quickest is None or quickest == row.choice.method:
        return row.choice.why
    less = 1 - row.seconds[quickest] / row.seconds[row.choice.method]
    return f"{row.choice.why}; {quickest} took {less:.0%} less"


def _totals(rows: Sequence[Row]) -> list[str]:
    """Over all layers: the chosen methods, and the quickest, against the plain convolutions."""
    if rows[0].choice.costs[PLAIN].seconds is None and not rows[0].seconds:
        return []
    plain, chosen = (
        sum(len(row.layers) * (_seconds(row, method or row.choice.method) or 0) for row in rows)
        for method in (PLAIN, None)
    )
    text = f"All layers, forward and backward: plain {1e3 * plain:.4g} ms, chosen {1e3 * chosen:.4g} ms "
    text += f"({chosen / plain:.2f} times)"
    if rows[0].seconds:
        quickest = sum(len(row.layers) * row.seconds[row.quickest or PLAIN] for row in rows)
        text += f", quickest {1e3 * quickest:.4g} ms ({quickest / plain:.2f} times)"
    without = "Heads are" if rows[0].seconds else "Heads, and building kernels, are"
    return [f"{text}. {without} not among them."]


def as_values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values; seconds and bytes."""
    return [
        {
            "layers": row.layers,
            "convolution": str(row.problem),
            "input": row.problem.input,
            "weight": row.problem.weight,
            "place": row.problem.place,
            "dtype": str(row.problem.dtype).removeprefix("torch."),
            "channels_last": row.problem.channels_last,
            "direction": row.direction,
            "chosen": row.choice.method,
            "why": row.choice.why,
            "quickest": row.quickest,
            "seconds": row.seconds,
            "costs": {name: cost._asdict() for name, cost in row.choice.costs.items()},
        }
        for row in rows
    ]


def draw(rows: Sequence[Row], path: Path) -> None:
    """A bar for each method of each convolution, forward and backward together, in times of the plain one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    bars: dict[str, dict[int, float]] = {}
    for (position, pair), method in itertools.product(enumerate(pairs), METHODS):
        both, plain = ([_seconds(row, name) for row in pair] for name in (method, PLAIN))
        if None not in both:
            bars.setdefault(method, {})[position] = sum(filter(None, both)) / sum(filter(None, plain))
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.5 * len(pairs)))
    height = 0.8 / len(bars)
    for number, (method, times) in enumerate(bars.items()):
        places = [position + (number - (len(bars) - 1) / 2) * height for position in times]
        axes.barh(places, [*times.values()], height, label=method)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(pairs)), [str(forward.problem) for forward, _ in pairs])
    axes.invert_yaxis()
    counted = "bytes" if rows[0].choice.costs[PLAIN].seconds is None else "predicted time"
    axes.set_xlabel(f"{'measured time' if rows[0].seconds else counted}, in times of a plain convolution's")
    axes.set_title("Forward and backward of each convolution")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _seconds(row: Row, method: str) -> float | None:
    """Measured, else by counting; where no rates are known, the bytes, which stand for it."""
    if row.seconds:
        return row.seconds.get(method)
    cost = row.choice.costs[method]
    if not cost.possible:
        return None
    return cost.seconds if row.choice.costs[PLAIN].seconds is not None else cost.bytes
