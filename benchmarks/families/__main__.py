"""Which networks people use can be converted: `python -m benchmarks.families --help`.

Of each family of timm's convolutional networks a small one, torchvision's, MONAI's, nnU-Net's and others are made
Cross-D networks and networks of volumes, proven on equal slices, trained for a step and brought back to 2D.

    python -m benchmarks.families                  # all, on from where an earlier run stopped
    python -m benchmarks.families 'timm/conv*'     # some, again
    python -m benchmarks.families --table          # only write docs/families.md from the results

Each network runs in a process of its own; results are kept in the file of `--results` one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.families.networks import Network, networks
from benchmarks.families.packages import import_package
from benchmarks.families.report import write_table
from benchmarks.families.steps import try_network
from benchmarks.progress import progress_bar

_RESULTS = Path(__file__).absolute().parents[1] / "results" / "families" / "results.json"
_PAGE = Path(__file__).absolute().parents[2] / "docs" / "families.md"


def main(arguments: list[str] | None = None) -> int:
    """Run the sweep; returns the exit status, 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patterns", nargs="*", help="names of networks to try again, as patterns (fnmatch)")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=_PAGE, help="where the table goes; default: %(default)s")
    parser.add_argument("--seconds", type=int, default=300, help="for each step of a network; default: %(default)s")
    parser.add_argument("--table", action="store_true", help="try nothing, write the table of what is known")
    options = parser.parse_args(arguments)
    known = networks()
    results: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    wanted = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.patterns)]
    if options.patterns and not wanted:
        parser.error(f"no network matches {', '.join(options.patterns)}; known: {', '.join(known)}")
    if not options.patterns:
        wanted = [name for name in known if name not in results]
    if not options.table:
        _sweep({name: known[name] for name in wanted}, results, options)
    ordered = {name: results[name] for name in known if name in results}
    write_table(ordered, options.page)
    print(options.page.read_text(encoding="utf-8"))
    return 0


def _sweep(chosen: dict[str, Network], results: dict[str, Any], options: argparse.Namespace) -> None:
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for package in ("timm", "torchvision"):  # once, not in each of the processes
        with contextlib.suppress(ImportError):
            import_package(package)
    with progress_bar(total=len(chosen), desc="networks", unit="network") as bar:
        for name, network in chosen.items():
            bar.set_postfix_str(name)
            outcome = _in_a_process(network, options.seconds)
            if outcome is not None:
                results[name] = outcome
                options.results.write_text(json.dumps(results, indent=1) + "\n")
            bar.update()


def _in_a_process(network: Network, seconds: int) -> dict[str, str] | None:
    """What came of a network; None where its package is missing."""
    context: Any = multiprocessing.get_context("fork")  # packages that are imported already stay so
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, network, seconds))
    process.start()
    sender.close()
    try:
        outcome: dict[str, str] | None = receiver.recv()
    except EOFError:
        outcome = {"volumes": "fails: the process ended without a result"}
    process.join()
    return outcome


def _send(sender: Any, network: Network, seconds: int) -> None:
    torch.set_num_threads(1)
    try:
        sender.send(try_network(network, seconds))
    except ImportError as error:
        print(f"left out: {error}", file=sys.stderr)
        sender.send(None)
    except Exception as error:  # of the network itself, before anything was converted
        sender.send({"to Cross-D": f"fails: of itself, {type(error).__name__}: {error}"})


if __name__ == "__main__":
    sys.exit(main())
