"""python -m crossd_ops: what was built, what this machine has, which backend each device uses and why, a self-test.

python -m crossd_ops profile NETWORK: the methods of each of a network's convolutions; see there for --help.

Exit status 1: the compiled operators do not load, a GPU has no kernels, or the self-test fails.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from .inspection.profile import command as profile
from .inspection.report import as_text, describe, is_healthy
from .inspection.self_test import self_test
from .library import cmake


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] == "profile":
        return profile.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m crossd_ops", description=__doc__)
    parser.add_argument("--self-test", action="store_true", help="compare every operator with the torch.fft reference")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    paths = parser.add_mutually_exclusive_group()
    paths.add_argument("--cmake-prefix-path", action="store_true", help="print only what goes into CMAKE_PREFIX_PATH")
    paths.add_argument("--include-path", action="store_true", help="print only the folder of the C++ headers")
    options = parser.parse_args(arguments)
    if options.cmake_prefix_path or options.include_path:
        print(cmake.cmake_prefix_path if options.cmake_prefix_path else cmake.include_path)
        return 0
    report = describe()
    tested = self_test() if options.self_test else None
    if options.json:
        if tested:
            report["self_test"] = {
                "passed": tested.passed,
                "checks": [asdict(check) | {"passed": check.passed} for check in tested.checks],
            }
        print(json.dumps(report, indent=2))
    else:
        print(as_text(report))
        if tested:
            print(f"Self-test\n{tested}")
    return 0 if is_healthy(report) and (tested is None or tested.passed) else 1


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # a reader that has seen enough, such as head, ends this as it ends other tools
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
