"""Tables and plot of the network benchmark."""

from __future__ import annotations

from typing import Any

from benchmarks.networks.breakdown import PARTS
from benchmarks.tables import format_table

_TITLES = {
    "plain": "nn.Conv2d",
    "fused": "fused",
    "expansion": "torch.fft expansion",
    "compiled_expansion": "expansion, torch.compile",
}
_LISTED_OPERATORS = 8
_COLUMNS = [*(f"{part} {phase}" for part in PARTS for phase in ("forward", "backward")), "optimizer"]
_COLORS = {
    "head": "tab:green",
    "build": "tab:red",
    "convolution": "tab:blue",
    "rest": "tab:gray",
    "optimizer": "tab:purple",
}


def network_sections(networks: list[dict[str, Any]]) -> list[str]:
    """The part of the report about networks, as Markdown."""
    introduction = (
        "## Networks: a training step\n\n"
        "Forward, loss, backward and optimizer (AdamW, fused) of a network whose every convolution is a Cross-D layer "
        "(fused, or by the torch.fft expansion through the same modules), against the network of `nn.Conv2d`. Median "
        "of single steps, in turns within one run. Peak memory: beyond parameters, state of the optimizer and images; "
        "with the gradients, K times as large for a 3D weight of depth K. Kept: by autograd between forward and "
        "backward, parameters apart. Launches: calls of operators (CPU) or kernels (CUDA)."
    )
    return [
        f"{introduction}\n\n{_time_table(networks)}",
        "Where the time of a step goes, ms by torch's profiler, which takes time itself. An operator counts for the "
        "part that called it or, in the backward pass, that created its autograd node. head: from a layer's input to "
        "the shift; build: the weights of each sample; rest: normalisation, activations, pooling, classifier, loss"
        f"\n\n{_part_table(networks)}",
        f"The most expensive operators of the fused networks, ms in a step\n\n{_operator_table(networks)}",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _megabytes(count: int | None) -> str:
    return "not known" if count is None else f"{count / 1e6:.1f}"


def _time_table(networks: list[dict[str, Any]]) -> str:
    header = ["network", "convolutions", "step ms", "steps", "x nn.Conv2d", "x faster than expansion"]
    header += ["peak MB", "kept MB", "launches"]
    body = []
    for network in networks:
        expansion = network["variants"]["expansion"]["median_seconds"]
        for name, variant in network["variants"].items():
            cells = [network["network"], _TITLES[name], _milliseconds(variant["median_seconds"]), str(variant["steps"])]
            cells += [f"{variant['times_plain']:.2f}", f"{expansion / variant['median_seconds']:.1f}"]
            cells += [_megabytes(variant["peak_bytes"]), _megabytes(variant["kept_bytes"])]
            body.append([*cells, str(variant["breakdown"]["launches"]) if variant["breakdown"] else "-"])
    return format_table(header, body)


def _part_table(networks: list[dict[str, Any]]) -> str:
    body = []
    for network, name, variant in _broken_down(networks):
        parts = [variant["breakdown"]["milliseconds"].get(column, 0.0) for column in _COLUMNS]
        body.append([network, _TITLES[name], *(f"{value:.1f}" for value in [*parts, sum(parts)])])
    return format_table(["network", "convolutions", *_COLUMNS, "sum"], body)


def _operator_table(networks: list[dict[str, Any]]) -> str:
    body = []
    for network, name, variant in _broken_down(networks):
        if name == "fused":
            for row in variant["breakdown"]["largest_operators"][:_LISTED_OPERATORS]:
                body.append([network, row["part"], row["operator"], f"{row['milliseconds']:.1f}"])
    return format_table(["network", "part", "operator", "ms"], body)


def _broken_down(networks: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (network["network"], name, variant)
        for network in networks
        for name, variant in network["variants"].items()
        if variant["breakdown"]
    ]


def plot_networks(networks: list[dict[str, Any]]) -> Any:
    """Left: times against nn.Conv2d, on a logarithmic axis. Right: where the time goes, in steps with nn.Conv2d."""
    from matplotlib import pyplot as plt

    rows = len(networks)
    figure, (ratios, parts) = plt.subplots(1, 2, figsize=(14, max(3.5, 1.0 + 1.1 * rows)))
    variants = [name for name in _TITLES if any(name in network["variants"] for network in networks)]
    height = 0.8 / len(variants)
    for number, name in enumerate(variants):
        rows_with = [row for row, network in enumerate(networks) if name in network["variants"]]
        positions = [row + (number - (len(variants) - 1) / 2) * height for row in rows_with]
        lengths = [networks[row]["variants"][name]["times_plain"] for row in rows_with]
        bars = ratios.barh(positions, lengths, height, label=_TITLES[name])
        ratios.bar_label(bars, fmt="{:.2f}", fontsize=8, padding=2)
    ratios.set_yticks(range(rows), [network["network"] for network in networks], fontsize=8)
    ratios.set(xscale="log", xlabel="times a step with nn.Conv2d", title="Training step")
    largest = max(variant["times_plain"] for network in networks for variant in network["variants"].values())
    ratios.set_xlim(0.5, 1.6 * largest)
    ratios.xaxis.set_major_formatter("{x:g}")
    ratios.xaxis.set_minor_formatter("")
    ratios.legend(fontsize=8, ncols=len(variants), loc="lower center", bbox_to_anchor=(0.5, 1.05))  # beside no bar

    broken_down = _broken_down(networks)
    plain_sums = {
        network: sum(variant["breakdown"]["milliseconds"].values())
        for network, name, variant in broken_down
        if name == "plain"
    }
    left = [0.0] * len(broken_down)
    for column in _COLUMNS:
        part, _, phase = column.partition(" ")
        widths = [
            variant["breakdown"]["milliseconds"].get(column, 0.0) / plain_sums[network]
            for network, _, variant in broken_down
        ]
        style = {"color": _COLORS[part], "alpha": 0.5 if phase == "backward" else 1.0, "label": column}
        parts.barh(range(len(broken_down)), widths, 0.7, left=left, **style)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    labels = [f"{network}\n{_TITLES[name]}" for network, name, _ in broken_down]
    parts.set_yticks(range(len(broken_down)), labels, fontsize=8)
    parts.set(xlabel="times a step with nn.Conv2d, by the profiler", title="Where the time goes")
    parts.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (ratios, parts):
        axes.invert_yaxis()
    figure.tight_layout()
    return figure
