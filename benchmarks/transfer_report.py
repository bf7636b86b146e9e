"""The table and the plot of the transfer benchmark, made from the results of its cells alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.report import format_table
from benchmarks.transfer_recipes import PRETRAININGS, RECIPES
from benchmarks.transfer_training import PROTOCOLS

_MEASURE = {"classification": "accuracy", "segmentation": "mean Dice coefficient"}
# The recipe of the best known baseline, from which differences are taken seed by seed.
_BASELINE = "acs"


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores by task, recipe and protocol, in the order of the seeds; pretrainings likewise."""
    summary: dict[str, Any] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        task = summary.setdefault(cell["task"], {"pretrainings": {}, "recipes": {}})
        if cell["recipe"]:
            by_protocol = task["recipes"].setdefault(cell["recipe"], {})
            by_protocol.setdefault(cell["protocol"], []).append(cell["score"])
        else:
            task["pretrainings"].setdefault(cell["pretraining"], []).append(cell["score"])
    return summary


def differences(recipes: dict[str, Any], recipe: str, protocol: str) -> list[float] | None:
    """Score of a recipe less that of ACS, of the same seed (so the same labelled volumes); None where either lacks."""
    mine, baseline = (recipes.get(name, {}).get(protocol, []) for name in (recipe, _BASELINE))
    if not mine or len(mine) != len(baseline):
        return None
    return [score - other for score, other in zip(mine, baseline, strict=True)]


def write_transfer_report(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.md, results.json and plot.png; return the files."""
    report, table, plot = folder / "report.md", folder / "results.json", folder / "plot.png"
    table.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _plot(results["summary"], plot)
    report.write_text(f"{format_transfer_report(results)}\n![scores of the recipes]({plot.name})\n", encoding="utf-8")
    return [report, table, plot]


def format_transfer_report(results: dict[str, Any]) -> str:
    """The report as Markdown, without the plot."""
    environment = results["environment"]
    sections = [
        "# From 2D to 3D: the recipes side by side",
        f"`{results['command']}`\n\n{environment['cpu']}, {environment['cpu_cores']} cores, torch "
        f"{environment['torch']}, crossd_ops {environment['crossd_ops']} (commit {environment['git_commit']}); "
        f"{results['seeds']} seeds; {results['cpu_seconds'] / 60:.0f} minutes of CPU time in "
        f"{results['workers']} processes of one thread, {results['elapsed_seconds'] / 60:.0f} minutes in this run.",
        "A network is trained on 2D images, made 3D by a recipe, and trained on a few labelled volumes: all of it, or "
        "with its convolutions frozen (batch normalisation and the classifier are trained then). For every recipe "
        "alike the classifier is new and batch normalisation starts anew. Figures are means over the seeds, then the "
        "standard deviation from seed to seed. A seed draws the initial weights, the order, and which volumes are "
        "labelled, the same ones for every recipe: so the last column, the difference from ACS with convolutions "
        "frozen seed by seed, says more than the spread of the others.",
    ]
    for task, summary in results["summary"].items():
        sections += _task_sections(task, summary, results["tasks"][task])
    return "\n\n".join(sections) + "\n"


def _task_sections(task: str, summary: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    chance = f" Chance: {facts['chance']:.3f}." if facts["chance"] is not None else ""
    labelled = f"{facts['labelled']} labelled volumes to train on, {facts['tested']} others to test on."
    recipes = [name for name in RECIPES if name in summary["recipes"]]
    rows = []
    for name in recipes:
        recipe = RECIPES[name]
        scores = [mean_and_spread(summary["recipes"][name].get(protocol)) for protocol in PROTOCOLS]
        difference = mean_and_spread(differences(summary["recipes"], name, "frozen"), signed=True)
        rows.append([name, recipe.pretraining or "none", *scores, difference])
    header = ["recipe", "pretraining", *PROTOCOLS, "frozen, less ACS"]
    meanings = "\n".join(f"- **{name}**: {RECIPES[name].text}" for name in recipes)
    trained = [
        [name, mean_and_spread(scores), PRETRAININGS[name].text] for name, scores in summary["pretrainings"].items()
    ]
    return [
        f"## {task.capitalize()}\n\n{facts['data']}. {labelled} Measure: {_MEASURE[task]} on these.{chance}",
        format_table(header, rows),
        meanings,
        "The networks in 2D, on slices that were held out:",
        format_table(["pretraining", _MEASURE[task], "how"], trained),
    ]


def mean_and_spread(scores: list[float] | None, signed: bool = False) -> str:
    """ "0.123 ± 0.004", without the spread for a single score, "-" for none."""
    if not scores:
        return "-"
    text = f"{statistics.mean(scores):{'+' if signed else ''}.3f}"
    return text if len(scores) == 1 else f"{text} ± {statistics.stdev(scores):.3f}"


def _plot(summary: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    longest = max(len(task["recipes"]) for task in summary.values())
    figure, panels = plt.subplots(
        1, len(summary), figsize=(6.5 * len(summary), 1.2 + 0.42 * longest), squeeze=False, layout="constrained"
    )
    for axes, (name, task) in zip(panels[0], summary.items(), strict=True):
        recipes = [recipe for recipe in reversed(RECIPES) if recipe in task["recipes"]]
        for offset, protocol, color in ((0.2, PROTOCOLS[0], "tab:gray"), (-0.2, PROTOCOLS[1], "tab:blue")):
            scores = [task["recipes"][recipe].get(protocol, []) for recipe in recipes]
            positions = [position + offset for position in range(len(recipes))]
            axes.barh(positions, [sum(each) / max(len(each), 1) for each in scores], 0.38, color=color, label=protocol)
            points = [(score, position) for position, each in zip(positions, scores, strict=True) for score in each]
            axes.plot(*zip(*points, strict=True), "k.", markersize=4)
        axes.set_yticks(range(len(recipes)), recipes)
        axes.set(xlabel=f"{_MEASURE[name]} (dots: seeds)", title=name.capitalize())
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
