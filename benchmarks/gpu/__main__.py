"""Command line of the GPU run: `python -m benchmarks.gpu run --help`, and `report` or `predict` in place of `run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import torch  # noqa: F401  imported once, for all parts: see run.py

from benchmarks import gpu
from benchmarks.gpu.parts import CALL_SECONDS, CALLS, PARTS, PREDICTED_PARTS
from benchmarks.gpu.prediction.gpus import GPU, GPUS
from benchmarks.gpu.run import read_results, run_parts

_DEFAULT_OUT = Path(__file__).resolve().parents[1] / "out" / "gpu.json"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 where a part did not come to its end, or found a fault."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "report":
            from benchmarks.gpu.report import write_report

            results = read_results(options.results[0])
            for other in map(read_results, options.results[1:]):
                results["parts"] |= other["parts"]
                results["dry_run"] |= other["dry_run"]
            for path in write_report(results, options.out or options.results[0].parent):
                print(f"wrote {path}")
            return 0
        if options.command == "predict":
            _predict(GPUS[options.gpu], options.parts, options.plot, dry_run=options.dry_run)
            return 0
        options.out.parent.mkdir(parents=True, exist_ok=True)
        calls = [options.call] if options.call else list(CALLS)
        outcomes = run_parts(
            options.parts or [name for call in calls for name in CALLS[call]],
            options.out,
            device="cpu" if options.dry_run else "cuda",
            dry_run=options.dry_run,
            seconds=options.seconds or CALL_SECONDS * (1 if options.parts else len(calls)),
            commit=options.commit,
            again=options.parts is not None,
        )
    except (OSError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    for name, outcome in outcomes.items():
        print(f"{name:14} {outcome['seconds']:7.1f} s  {outcome['status']}")
        for fault in (outcome.get("result") or {}).get("faults", []):
            print(f"  {fault}")
    print(f"wrote {options.out}")
    return int(any(outcome["status"] != "done" for outcome in outcomes.values()))


def _predict(gpu: GPU, parts: list[str] | None, plot: Path | None, *, dry_run: bool) -> None:
    from benchmarks.gpu.prediction.predict import format_prediction
    from benchmarks.gpu.prediction.rows import predicted_results

    results = predicted_results(gpu, parts or PREDICTED_PARTS, dry_run=dry_run)
    print(format_prediction(gpu, results), end="")
    if plot:
        from benchmarks.gpu.plots import write_predicted_plots

        write_predicted_plots(results, gpu, plot)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=gpu.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the parts", formatter_class=argparse.RawDescriptionHelpFormatter)
    run.epilog = "parts:\n" + "\n".join(f"  {name:14} {part.about}" for name, part in PARTS.items())
    run.epilog += "\n\ncalls:\n" + "\n".join(f"  {name:14} {', '.join(parts)}" for name, parts in CALLS.items())
    wanted = run.add_mutually_exclusive_group()
    wanted.add_argument(
        "call", nargs="?", choices=list(CALLS), help="the parts of one call that FILE does not hold; default: of both"
    )
    run.add_argument(
        "--out", type=Path, default=_DEFAULT_OUT, metavar="FILE", help=f"JSON (default: {_DEFAULT_OUT.name})"
    )
    wanted.add_argument("--parts", type=_parts, metavar="A,B", help="these, also where FILE holds them already")
    run.add_argument("--seconds", type=float, help=f"for the whole run (default: {CALL_SECONDS:.0f} for each call)")
    run.add_argument("--commit", help="what is measured, where the tree is no git checkout")
    run.add_argument(
        "--dry-run", action="store_true", help="every part on the CPU in tiny sizes: does the script work?"
    )
    report = commands.add_parser("report", help="tables, plots and a roofline from the JSON of a run; needs no GPU")
    report.add_argument("results", type=Path, nargs="+", help="of one run, or of several calls: the last has the say")
    report.add_argument("--out", type=Path, metavar="FOLDER", help="default: that of the first results")
    predict = commands.add_parser(
        "predict", help="what the parts would measure on a GPU, by counts and bounds; needs none"
    )
    predict.add_argument("--gpu", choices=list(GPUS), default="H200", help="default: %(default)s")
    predict.add_argument(
        "--parts", type=_predicted_parts, metavar="A,B", help=f"these of {', '.join(PREDICTED_PARTS)}; default: all"
    )
    predict.add_argument("--dry-run", action="store_true", help="tiny sizes: does it work?")
    predict.add_argument("--plot", type=Path, metavar="FILE", help="a PNG of the bandwidths, and one of the steps")
    return parser


def _parts(text: str) -> list[str]:
    return _names(text, PARTS)


def _predicted_parts(text: str) -> list[str]:
    return _names(text, PREDICTED_PARTS)


def _names(text: str, known: Iterable[str]) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected names out of {', '.join(known)}, got {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
