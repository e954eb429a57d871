"""`python -m tests.fuzz NAME …|all [--seconds N]`: what is new is kept below build/fuzz and tried again next time."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.run import run_target, target_names


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers and machines of tpid.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or some of {', '.join(target_names())}")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (60)")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs are kept (build/fuzz)")
    options = parser.parse_args()
    names = target_names() if options.names == ["all"] else options.names
    if unknown := set(names) - set(target_names()):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    failures = 0
    for name in names:
        outcome = run_target(name, options.seconds, options.keep.resolve())
        rate = outcome.executions / max(outcome.seconds, 1e-9)
        verdict = "ok" if outcome.failure is None else f"FAILED with {outcome.input}"
        print(f"{name}: {outcome.executions} executions, {rate:.0f} a second: {verdict}", flush=True)
        if outcome.failure is not None:
            failures += 1
            print(outcome.failure[-4000:], flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
