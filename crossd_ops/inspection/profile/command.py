"""python -m crossd_ops profile NETWORK: each Cross-D convolution, each method, and what the library chooses and why.

NETWORK is a name of torchvision or timm, or package.module:function, a function without arguments that returns a
module; --layer is one layer instead. Times are of convolutions, building the kernels of each sample included, and
without heads; "plain" is one kernel for all samples, as in torch.nn.Conv2d. --dry-run runs nothing and prints what the
library counts: for a GPU, which this machine need not have, milliseconds marked with ~, for the CPU bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...library import loaded
from ...tuning import saved
from . import measurement, report
from .networks import layer_of, network_of
from .problems import problems_of

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        rows = _profile(options)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    machine = _machine(options)
    if options.json:
        values = {"machine": machine, "dry_run": options.dry_run, "rows": report.as_values(rows)}
        print(json.dumps(values, indent=1))
    else:
        unit = "by counting, nothing was run" if options.dry_run else "ms"
        print(f"{machine}; batch {options.batch}, {options.dtype}; {unit}")
        print(report.as_table(rows))
    if options.plot:
        report.draw(rows, options.plot)
    if options.save:
        saved.save(options.save, machine, [_saved(row) for row in rows])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m crossd_ops profile", description=__doc__)
    parser.add_argument("network", nargs="?", help="a name, or package.module:function")
    parser.add_argument("--layer", help="IN,OUT,KERNEL[,STRIDE[,GROUPS]]: one layer")
    parser.add_argument("--batch", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--size", default="224", help="H or H,W of an image, D,H,W of a volume (default: 224)")
    parser.add_argument("--channels", type=int, default=3, help="of the network's input (default: 3)")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="default: float32")
    parser.add_argument("--channels-last", action="store_true", help="inputs of the layers lie so")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--dry-run", action="store_true", help="count, run nothing")
    parser.add_argument("--turns", type=int, default=5, help="that medians are of (default: 5)")
    parser.add_argument("--json", action="store_true", help="print values instead of the table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a bar chart")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the quickest, for CROSSD_TUNING=FILE")
    return parser


def _profile(options: argparse.Namespace) -> list[measurement.Row]:
    """The rows, forward and backward of each convolution. Raises ValueError for options that do not fit."""
    sizes = _sizes(options.size)
    _check(options)
    model, channels = _model(options, len(sizes))
    inputs = options.batch, channels, *sizes
    found = problems_of(model, inputs, _DTYPES[options.dtype], channels_last=options.channels_last)
    on_gpu = options.device == "cuda"
    rows: list[measurement.Row] = []
    with _progress(0 if options.dry_run else 2 * options.turns * len(found)) as progress:
        for problem, layers in found.items():
            pair = measurement.counted(problem, layers, on_gpu=on_gpu)
            if not options.dry_run:
                measurement.measure(pair, torch.device(options.device), options.turns, progress)
            rows += pair
    return rows


def _model(options: argparse.Namespace, axes: int) -> tuple[nn.Module, int]:
    """The network, and the channels of its input."""
    if options.network:
        return network_of(options.network, axes), options.channels
    try:
        numbers = [int(number) for number in options.layer.split(",")]
    except ValueError:
        numbers = []
    return layer_of(numbers, axes), numbers[0]


def _check(options: argparse.Namespace) -> None:
    if bool(options.network) == bool(options.layer):
        raise ValueError("expected a network or --layer, " + ("got both" if options.network else "got neither"))
    if min(options.batch, options.turns, options.channels) < 1:
        given = f"{options.batch}, {options.turns}, {options.channels}"
        raise ValueError(f"--batch, --turns, --channels: expected at least 1, got {given}")
    if loaded.load_error:
        raise ValueError(f"expected the compiled operators, whose methods these are: {loaded.load_error}")
    if options.save and options.dry_run:
        raise ValueError("--save: expected a run, got --dry-run, which measures nothing to keep")
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not (options.dry_run or torch.cuda.is_available()):
        raise ValueError("--device cuda: expected a GPU, got none; --dry-run counts without one")
    if options.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ValueError(f"--plot: expected matplotlib (pip install matplotlib): {error}") from error
    for path in (options.plot, options.save):
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: expected a folder that exists, got {path.parent}")


def _sizes(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2, 3) or min(numbers) < 1:
        raise ValueError(f"--size: expected H, H,W or D,H,W, got {text!r}")
    return numbers * 2 if len(numbers) == 1 else numbers


def _machine(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        name = "a GPU by csrc/convolution/gpu_costs.h" if options.dry_run else torch.cuda.get_device_name()
    else:
        name = f"CPU, {loaded.cpu_capability()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _saved(row: measurement.Row) -> saved.Saved:
    about = f"{row.problem}, batch {row.problem.input[0]}, {row.problem.dtype}, {row.direction}"
    return saved.Saved(row.choice.key, row.quickest or row.choice.method, about)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], Any]]:
    """What to call after each turn: a bar of tqdm where it is installed and there is something to show."""
    try:
        tqdm: Any = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=total, desc="turns", disable=not total or not sys.stderr.isatty()) as bar:
        yield bar.update
