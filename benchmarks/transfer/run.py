"""Runs the cells of the transfer benchmark in processes of one thread each; each finished cell is a file.

A run that is killed, at any moment, goes on from the finished cells: files are written whole or not at all, in a folder
named after the settings, so results of different settings never meet. Results do not depend on the number of processes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.progress import progress_bar
from benchmarks.train.state import load_checkpoint, save_checkpoint, write_whole
from benchmarks.transfer.data import PLANES, TransferData
from benchmarks.transfer.models import build_network
from benchmarks.transfer.recipes import PRETRAININGS, RECIPES, Pretraining, make_network_3d
from benchmarks.transfer.training import PROTOCOLS, Schedule, pretrain, score, transfer
from crossd_ops import CrossDConv2d
from crossd_ops.planes import set_plane


@dataclass(frozen=True)
class Cell:
    """One training run: of a pretraining in 2D, or, with a recipe and a protocol, of a transfer to 3D."""

    task: str
    seed: int
    pretraining: str
    recipe: str = ""
    protocol: str = ""

    @property
    def file_name(self) -> str:
        """Of its result."""
        parts = [self.recipe or self.pretraining, self.protocol or "2d", f"seed{self.seed}"]
        return "-".join(parts).replace(" ", "-").replace(":", "") + ".json"


class Workplace:
    """The folder of a task with one set of settings: data, pretrained networks, results of the cells."""

    def __init__(self, cells: Path, task: str, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        self.folder = cells / f"{task}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "settings.json", (json.dumps(settings, indent=1) + "\n").encode())

    def load_data(self, make: Callable[[], TransferData] | None = None) -> TransferData:
        """The data, made once and then kept; without `make` they must be there."""
        path = self.folder / "data.pt"
        if make is not None and not path.exists():
            data = make()
            save_checkpoint(path, {field.name: getattr(data, field.name) for field in fields(data)})
        return TransferData(**load_checkpoint(path))

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Of a finished cell, else None."""
        path = self.folder / cell.file_name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def network_path(self, pretraining: str, seed: int) -> Path:
        """Of a pretrained network's weights."""
        return self.folder / f"{pretraining.replace(' ', '-')}-seed{seed}.pt"


def plan(tasks: dict[str, list[str]], seed: int) -> tuple[list[Cell], list[Cell]]:
    """The pretrainings and the transfers for the recipes of each task; recipes of the research with frozen layers."""
    pretrainings: dict[Cell, None] = {}
    transfers: dict[Cell, None] = {}
    for task, recipes in tasks.items():
        for recipe in recipes:
            name = RECIPES[recipe].pretraining
            pretrainings[Cell(task, seed, name)] = None
            for protocol in ("frozen",) if RECIPES[recipe].research else PROTOCOLS:
                transfers[Cell(task, seed, name, recipe, protocol)] = None
    return list(pretrainings), list(transfers)


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[concurrent.futures.Executor]:
    """Processes for `run_cells`; an error or Ctrl-C waits for the cells in progress, and starts no more."""
    # spawn: forked children of a process that has used OpenMP threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run_cells(
    pool: concurrent.futures.Executor,
    workplaces: dict[str, Workplace],
    cells: list[Cell],
    schedules: dict[str, Schedule],
    label: str,
) -> None:
    """Run the cells that are not finished, with a progress bar."""
    waiting = [cell for cell in cells if workplaces[cell.task].result(cell) is None]
    with progress_bar(total=len(cells), initial=len(cells) - len(waiting), desc=label, unit="run") as progress:
        running = [pool.submit(run_cell, workplaces[cell.task], cell, schedules[cell.task]) for cell in waiting]
        for finished in concurrent.futures.as_completed(running):
            finished.result()
            progress.update()


def _start_worker() -> None:
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # Workers of a parent that was killed would wait for work for ever.
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_cell(workplace: Workplace, cell: Cell, schedule: Schedule) -> None:
    """Run one cell and write its result."""
    data = workplace.load_data()
    start = time.process_time()
    result: dict[str, Any] = asdict(cell)
    if not cell.recipe:
        way = PRETRAININGS[cell.pretraining]
        network = pretrain(
            data,
            cell.task,
            way.conv,
            schedule,
            cell.seed,
            way.before_step,
            way.known_planes and data.planes_known,
            way.settle,
            way.penalty,
        )
        result["score"] = _score_2d(network, way, data)
        way.settle(network)
        save_checkpoint(workplace.network_path(cell.pretraining, cell.seed), _network_state(network))
    else:
        network = pretrained_network(workplace, cell, data)
        network_3d = make_network_3d(cell.recipe, network, data.images, cell.seed)
        result["score"], result["loss"] = transfer(network_3d, data, schedule, cell.protocol, cell.seed)
    result["cpu_seconds"] = round(time.process_time() - start, 1)
    write_whole(workplace.folder / cell.file_name, (json.dumps(result, indent=1) + "\n").encode())


def _score_2d(network: nn.Module, way: Pretraining, data: TransferData) -> float:
    """Score on the held-out images, each with the plane of the weights that such images were trained on."""
    way.settle(network)
    planes = range(len(PLANES)) if way.known_planes and data.planes_known else [None]
    scores, counts = [], []
    for plane in planes:
        if plane is None:
            indices = torch.arange(len(data.held_out_images))
        else:
            set_plane(network, plane)
            indices = (data.held_out_planes == plane).nonzero()[:, 0]
        scores.append(score(network, data.held_out_images, data.held_out_targets, indices, data.classes[0]))
        counts.append(len(indices))
    return sum(map(math.prod, zip(scores, counts, strict=True))) / sum(counts)


def pretrained_network(workplace: Workplace, cell: Cell, data: TransferData) -> nn.Module:
    """The 2D network of a finished pretraining, with the plane and the fixed shifts that it had in the end."""
    way = PRETRAININGS[cell.pretraining]
    network = build_network(cell.task, way.conv, data.classes[0], data.images.shape[1])
    way.settle(network)
    state = load_checkpoint(workplace.network_path(cell.pretraining, cell.seed))
    network.load_state_dict(state["weights"])
    for name, shift in state["fixed_shifts"].items():
        network.get_submodule(name).fix_shift(shift)
    return network


def _network_state(network: nn.Module) -> dict[str, Any]:
    layers = {name: module for name, module in network.named_modules() if isinstance(module, CrossDConv2d)}
    fixed = {name: layer.fixed_shift for name, layer in layers.items() if layer.fixed_shift is not None}
    return {"weights": network.state_dict(), "fixed_shifts": fixed}
