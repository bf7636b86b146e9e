"""Train a network with Cross-D or plain convolutions: `python -m benchmarks.train --help`, or under torchrun.

    torchrun --nproc-per-node 8 -m benchmarks.train --data pneumoniamnist_224.npz --amp bf16 --sync-bn --out runs/1

A run can be killed at any moment and goes on with `--resume` from its last checkpoint, bit for bit as if it had not
been interrupted (in as many processes as before; on a GPU as far as its kernels are deterministic).
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from pathlib import Path

import torch

from benchmarks.models import CONVOLUTIONS, MODELS
from benchmarks.train.data import load_training_data
from benchmarks.train.processes import Processes, StopRequest

_PACKAGES = ("matplotlib", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit status: 0, 2 for bad arguments, 128 and the signal's number where one stopped the run."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    _check_options(parser, options)
    # Needs the packages whose absence _check_options reports.
    from benchmarks.train.loop import Trainer

    processes = Processes(options.device)
    try:
        try:
            data = load_training_data(options.data, model=options.model, size=options.size, seed=options.seed)
            trainer = Trainer(options, data, processes)
        except (ValueError, ModuleNotFoundError) as error:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
            return 2
        with StopRequest() as stop:
            finished = trainer.run(stop)
        return 0 if finished else 128 + (stop.signal or signal.SIGTERM)
    finally:
        processes.close()


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train",
        description="Train a network with Cross-D or plain convolutions, on a CPU or GPU, or with torchrun on several.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data", required=True, help="`head` (a real head), a MedMNIST file, or a folder of train/<class>, val/<class>"
    )
    add("--out", type=Path, required=True, help="folder for checkpoint.pt, losses.csv, validation.csv, losses.png")
    add("--resume", action="store_true", help="go on from the checkpoint in --out; begin where there is none")
    add("--model", choices=MODELS, default="resnet18", help="unet: for data with a class for each pixel")
    add("--conv", choices=sorted(CONVOLUTIONS), default="crossd", help="the convolutions of the model")
    add("--width", type=_positive_integer, help="channels of the first layer (default: 64; unet 32)")
    add("--size", type=_positive_integer, default=224, help="height and width of pictures from a folder")
    add("--batch", type=_positive_integer, default=32, help="images in a step of each process")
    add("--epochs", type=_positive_integer, default=90, help="passes over the data, those before a resumption included")
    add("--learning-rate", type=_positive_number, default=1e-3, help="of AdamW")
    add("--weight-decay", type=_number_from_zero, default=1e-2, help="of AdamW")
    add("--decay-every", type=_positive_integer, default=30, help="epochs between two reductions of the learning rate")
    add("--decay", type=_positive_number, default=0.1, help="factor of each reduction")
    add("--amp", choices=("none", "bf16", "fp16"), default="none", help="mixed precision; fp16: on a GPU only")
    add("--sync-bn", action="store_true", help="batch statistics over all processes; on GPUs only")
    add("--channels-last", action="store_true", help="memory layout of images and network")
    add("--checkpoint-every", type=_positive_integer, default=500, help="steps; there is one after each epoch as well")
    add("--log-every", type=_positive_integer, default=20, help="steps after which losses are written")
    add("--workers", type=int, help="processes that load images (default: 4 for a folder, else 0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where there is one")
    add("--seed", type=_seed, default=0, help="of the initial weights and the order of the images")
    return parser


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _positive_number(text: str) -> float:
    value = _number_from_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _number_from_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**32 - 1, got {text!r}")
    return int(text)


def _check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; `pip install '.[bench]'` installs them")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected cpu or auto, since torch finds no CUDA device here, got cuda")
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    if options.amp == "fp16" and not on_gpu:
        parser.error("--amp: expected none or bf16 on a CPU, got fp16")
    if options.sync_bn and not on_gpu:
        parser.error("--sync-bn: expected GPUs, got a CPU")
    if options.workers is not None and options.workers < 0:
        parser.error(f"--workers: expected an integer from 0, got {options.workers}")


if __name__ == "__main__":
    sys.exit(main())
