#!/usr/bin/env python3
"""Measures the same filter on this library and on others, interleaved, and prints the figures.

    bench/run.py [--only full,noreply] [--contenders thread,pool,pymilter] [--rounds 3]

scripts/setup-bench makes what it needs; `make bench` does both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from bench import report  # noqa: E402 - needs the path above
from bench.plan import CONTENDERS, WORKLOADS, Contender, Workload  # noqa: E402
from bench.process import Failed, Filter  # noqa: E402
from bench.progress import Progress  # noqa: E402

BENCH = ROOT / "bench"
BUILD = BENCH / "build"
CACHE = ROOT / ".cache"
RESULTS = CACHE / "bench" / "results.json"

# Seconds before anything counts, for caches and for memory to be had from the system.
WARMUP = 0.3


def places() -> dict[str, str]:
    """Returns where the interpreters and the compiled contenders are (plan.Contender.command)."""
    ours = CACHE / "bench-ours/bin/python"
    return {
        "ours": str(ours) if ours.exists() else sys.executable,
        "oracle": str(CACHE / "oracle/bin/python"),
        "ppm": str(CACHE / "bench-purepythonmilter/bin/python"),
        "kilter": str(CACHE / "bench-kilter/bin/python"),
        "bench": str(BENCH),
        "build": str(BUILD),
    }


def generate(
    workload: Workload, filter: Filter, warmup: float, seconds: float, **extra: int
) -> subprocess.Popen[str]:
    """Starts the load generator, with what `extra` says beyond the workload, or in its place."""
    command = [str(BUILD / "load"), "--socket", filter.socket, "--style", workload.style, "--json"]
    command += ["--warmup", str(warmup), "--seconds", str(seconds)]
    command += ["--cpu-of", ",".join(map(str, filter.tree()))]
    for option, value in {**workload.load, **extra}.items():
        command += [f"--{option}", str(value)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(generator: subprocess.Popen[str], filter: Filter) -> dict[str, Any]:
    """Waits for the load generator and returns what it found."""
    try:
        printed, complaint = generator.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        generator.kill()
        generator.communicate()
        raise Failed("the load generator did not come to an end") from None
    if not filter.alive:
        raise Failed("ended: " + filter.log().strip()[-300:])
    if generator.returncode:
        reason = json.loads(printed)["first_error"] if printed.startswith("{") else complaint
        raise Failed(f"the load generator: {str(reason).strip()[-300:]}")
    return json.loads(printed)


def measure(
    contender: Contender, workload: Workload, seconds: float, where: dict[str, str]
) -> dict[str, Any]:
    """Lets one contender have its turn, and returns its figures."""
    command = [part.format(**where) for part in contender.command]
    environment = {"PYTHONPATH": where["tree"]} if "{ours}" in contender.command else {}
    environment.update(contender.environment)
    with Filter(command, environment, workload.variant, workload.tcp) as filter:
        generator = generate(workload, filter, WARMUP, seconds)
        # Late in the run, when all connections are there.
        try:
            generator.wait(WARMUP + seconds * 0.7)
        except subprocess.TimeoutExpired:
            pass
        resident = filter.resident_kib()
        load = outcome(generator, filter)
    units = load[workload.unit + "s"]
    if not units:
        raise Failed(f"not one {workload.unit} came to its end")
    used = [value for value in load["cpu_of"].values() if value is not None]
    return {
        "per_second": load[workload.unit + "s_per_second"],
        "cpu_us": sum(used) / units * 1e6,
        **{f"{name}_us": value for name, value in load["latency_us"].items()},
        "resident_kib": resident,
        "units": units,
        "load_cpu_us": load["cpu_seconds"] / units * 1e6,
        "replies": load["replies"],
        "negotiated": load["negotiated"],
    }


def machine() -> dict[str, object]:
    """Returns what the figures depend on: the processor, the kernel, the interpreter."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--only", metavar="NAMES", help=f"of the workloads {names}")
    names = ", ".join(contender.name for contender in CONTENDERS)
    parser.add_argument("--contenders", metavar="NAMES", help=f"of the contenders {names}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each turn")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--tree", default=str(ROOT), help="measure the library in this directory")
    return parser.parse_args()


def chosen(names: str | None, table: tuple, what: str) -> list:
    """Returns the rows of a table that a comma-separated list names; all of them for None."""
    if names is None:
        return list(table)
    by_name = {row.name: row for row in table}
    unknown = set(names.split(",")) - set(by_name)
    if unknown:
        raise SystemExit(f"no such {what}: {', '.join(sorted(unknown))}")
    return [by_name[name] for name in names.split(",")]


def takes_part(contender: Contender, workload: Workload, named: bool) -> bool:
    """Tells whether a contender is measured with a workload; who was named on the command line is,
    unless the workload is for others only.
    """
    if workload.only:
        return contender.name in workload.only
    return named or contender.everywhere or contender.name in workload.besides


def main() -> int:
    """Measures, prints, writes."""
    options = parse()
    workloads = chosen(options.only, WORKLOADS, "workload")
    contenders = chosen(options.contenders, CONTENDERS, "contender")
    where = {**places(), "tree": options.tree}
    left_out = {}
    for contender in list(contenders):
        program = contender.command[0].format(**where)
        if not os.path.exists(program):
            left_out[contender.name] = "not set up"
            contenders.remove(contender)
    turns = [
        (workload, number, contender)
        for workload in workloads
        for number in range(options.rounds)
        # Another one begins in each round.
        for contender in contenders[number % len(contenders) :]
        + contenders[: number % len(contenders)]
        if takes_part(contender, workload, options.contenders is not None)
    ]
    results = {
        "machine": machine(),
        "left_out": left_out,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "runs": [],
        "failures": [],
    }
    progress = Progress(len(turns))
    for workload, number, contender in turns:
        progress.step(f"{workload.name}, round {number + 1}, {contender.name}")
        row = {"workload": workload.name, "contender": contender.name, "round": number}
        try:
            figures = measure(contender, workload, options.seconds, where)
        except Failed as error:
            results["failures"].append({**row, "why": str(error)})
            progress.say(f"{workload.name}: {contender.name}: {error}")
        else:
            results["runs"].append({**row, **figures})
    progress.end()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report.plain(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
