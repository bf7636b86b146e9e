"""The table and the plot of the transfer benchmark, made from the results of its cells alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.tables import format_table
from benchmarks.transfer.recipes import PRETRAININGS, RECIPES
from benchmarks.transfer.training import PROTOCOLS

_MEASURE = {"classification": "accuracy", "segmentation": "mean Dice coefficient"}
# The recipe of the best known baseline, from which differences are taken seed by seed.
_BASELINE = "acs"


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores by task, recipe and protocol, each by its seed; pretrainings likewise."""
    summary: dict[str, Any] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        task = summary.setdefault(cell["task"], {"pretrainings": {}, "recipes": {}})
        if cell["recipe"]:
            by_protocol = task["recipes"].setdefault(cell["recipe"], {})
            by_protocol.setdefault(cell["protocol"], {})[cell["seed"]] = cell["score"]
        else:
            task["pretrainings"].setdefault(cell["pretraining"], {})[cell["seed"]] = cell["score"]
    return summary


def differences(recipes: dict[str, Any], recipe: str, protocol: str) -> dict[int, float]:
    """Score of a recipe less that of ACS, by the seeds that both have, of the same labelled volumes."""
    mine, baseline = (recipes.get(name, {}).get(protocol, {}) for name in (recipe, _BASELINE))
    return {seed: score - baseline[seed] for seed, score in mine.items() if seed in baseline}


def verdicts(recipes: dict[str, Any], protocol: str) -> tuple[list[str], list[str], list[str]]:
    """Recipes above ACS with every seed, those below it with every seed, and the others; the best first."""
    gains = {name: differences(recipes, name, protocol) for name in recipes if name != _BASELINE}
    gains = {name: gain for name, gain in gains.items() if gain}
    ranked = sorted(gains, key=lambda name: -statistics.mean(gains[name].values()))
    above = [name for name in ranked if min(gains[name].values()) > 0]
    below = [name for name in ranked if max(gains[name].values()) < 0]
    return above, below, [name for name in ranked if name not in (*above, *below)]


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
        f"{results['workers']} processes of one thread, {results['elapsed_seconds'] / 60:.0f} minutes in this run, "
        "which takes up what earlier ones finished.",
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
    tables = [
        _recipe_table(summary["recipes"], [name for name in recipes if RECIPES[name].research is research])
        for research in (False, True)
    ]
    trained = [
        [name, mean_and_spread(scores), PRETRAININGS[name].text] for name, scores in summary["pretrainings"].items()
    ]
    sections = [f"## {task.capitalize()}\n\n{facts['data']}. {labelled} Measure: {_MEASURE[task]} on these.{chance}"]
    if tables[0]:
        sections.append(tables[0])
    if tables[1]:
        sections += ["Tried on the way, and not kept:", tables[1]]
    if _BASELINE in recipes:
        kinds = ("Above ACS with every seed", "below it with every seed", "above with some seeds and below with others")
        found = zip(kinds, verdicts(summary["recipes"], "frozen"), strict=True)
        parts = [f"{kind}: {', '.join(names) or 'none'}" for kind, names in found]
        sections.append("Convolutions frozen, the best first. " + "; ".join(parts) + ".")
    return [
        *sections,
        "\n".join(f"- **{name}**: {RECIPES[name].text}" for name in recipes),
        "The networks in 2D, on slices that were held out (where several planes of the weight are trained, batch "
        "normalisation has the mean of their statistics, which suits none of them; in 3D it starts anew):",
        format_table(["pretraining", _MEASURE[task], "how"], trained),
    ]


def _recipe_table(results: dict[str, Any], names: list[str]) -> str:
    """ "" where there is nothing to show."""
    rows = []
    for name in names:
        scores = [mean_and_spread(results[name].get(protocol)) for protocol in PROTOCOLS]
        difference = mean_and_spread(differences(results, name, "frozen"), signed=True)
        rows.append([name, RECIPES[name].pretraining if name != "scratch" else "none", *scores, difference])
    return format_table(["recipe", "pretraining", *PROTOCOLS, "frozen, less ACS"], rows) if rows else ""


def mean_and_spread(scores: dict[int, float] | None, signed: bool = False) -> str:
    """ "0.123 ± 0.004" over the seeds, without the spread for a single one, "-" for none."""
    if not scores:
        return "-"
    text = f"{statistics.mean(scores.values()):{'+' if signed else ''}.3f}"
    return text if len(scores) == 1 else f"{text} ± {statistics.stdev(scores.values()):.3f}"


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
            scores = [list(task["recipes"][recipe].get(protocol, {}).values()) for recipe in recipes]
            positions = [position + offset for position in range(len(recipes))]
            axes.barh(positions, [sum(each) / max(len(each), 1) for each in scores], 0.38, color=color, label=protocol)
            points = [(score, position) for position, each in zip(positions, scores, strict=True) for score in each]
            axes.plot([score for score, _ in points], [position for _, position in points], "k.", markersize=4)
        axes.set_yticks(range(len(recipes)), recipes)
        axes.set(xlabel=f"{_MEASURE[name]} (dots: seeds)", title=name.capitalize())
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
