#!/usr/bin/env python3
"""Holds the last figures against the targets, and says which are met and which fall short.

    bench/check.py [RESULTS.json]

Without a file: those that bench/run.py has left; if there are none, it measures what the targets
need, briefly. The exit status is 0 whatever the figures are: they depend on the machine, and are no
test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from bench import report  # noqa: E402 - needs the path above
from bench.targets import TARGETS, judge_all  # noqa: E402

RESULTS = ROOT / ".cache" / "bench" / "results.json"


def measure() -> None:
    """Measures what the targets need."""
    pairs = [pair for target in TARGETS for pair in (target.of, target.by) if pair]
    workloads = ",".join(dict.fromkeys(workload for workload, _ in pairs))
    contenders = ",".join(dict.fromkeys(contender for _, contender in pairs))
    command = [sys.executable, str(ROOT / "bench/run.py"), "--rounds", "3", "--seconds", "1"]
    command += ["--no-strace", "--only", workloads, "--contenders", contenders]
    subprocess.run(command, check=True)


def main() -> int:
    """Prints the targets and what came of them."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    if not path.exists():
        measure()
    verdicts = judge_all(json.loads(path.read_text(encoding="utf-8"))["runs"])
    print("\n".join(report.aligned(report.verdict_rows(verdicts))))
    for what, met in (("met", True), ("short", False), ("not measured", None)):
        print(f"{what}: {sum(verdict.met is met for verdict in verdicts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
