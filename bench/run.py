#!/usr/bin/env python3
"""Measures the same filter on this library and on others, interleaved, and prints the figures.

    bench/run.py [--only full,noreply] [--contenders thread,pool,pymilter] [--rounds 3] ...

scripts/setup-bench makes what it needs; `make bench` does both. The results are left for
bench/check.py in .cache/bench/results.json. --help says more, and README.md what is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from bench import report, strace  # noqa: E402 - needs the path above
from bench.plan import CONTENDERS, WORKLOADS, Contender, Workload  # noqa: E402
from bench.process import Failed, Filter  # noqa: E402
from bench.progress import Progress  # noqa: E402

BENCH = ROOT / "bench"
BUILD = BENCH / "build"
CACHE = ROOT / ".cache"
RESULTS = CACHE / "bench" / "results.json"
REASONS = CACHE / "bench" / "left-out"

# Seconds before anything counts, for caches and for memory to be had from the system.
WARMUP = 0.3
# Seconds after which a turn has failed.
PATIENCE = 40


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
    workload: Workload, filter: Filter, *duration: str, **instead: int
) -> subprocess.Popen[str]:
    """Starts the load generator, with what `instead` says in place of the workload."""
    command = [str(BUILD / "load"), "--socket", filter.socket, "--json", *duration]
    command += ["--cpu-of", ",".join(map(str, filter.tree()))]
    for option, value in {**workload.load, **instead}.items():
        command += [f"--{option}", str(value)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(generator: subprocess.Popen[str], filter: Filter) -> dict[str, Any]:
    """Waits for the load generator and returns what it found."""
    try:
        printed, complaint = generator.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        generator.kill()
        generator.communicate()
        raise Failed("it does not come to an end") from None
    if not filter.alive:
        raise Failed("it ended: " + filter.log().strip()[-300:])
    if generator.returncode:
        reason = json.loads(printed)["first_error"] if printed.startswith("{") else complaint
        raise Failed(str(reason).strip()[-300:])
    return json.loads(printed)


def check_work(load: dict[str, Any], workload: Workload) -> None:
    """Makes sure that the filter has done what it was measured for."""
    units = load[workload.unit + "s"]
    if not units:
        raise Failed(f"not one {workload.unit} came to its end")
    # The sessions that cross the beginning and the end of what is counted may have it elsewhere.
    expected = units - int(workload.load["sessions"])
    if workload.unit == "message" and load["replies"].get("h", 0) < expected:
        raise Failed("it did not add its header")


def start(contender: Contender, workload: Workload, where: Mapping[str, Any]) -> Filter:
    """Returns a contender's filter, to be entered."""
    command = [part.format(**where) for part in contender.command]
    environment = {"PYTHONPATH": where["tree"]} if "{ours}" in contender.command else {}
    for name, value in contender.environment.items():
        environment[name] = value.format(pool=workload.pool)
    return Filter(command, environment, workload.variant, workload.tcp or contender.tcp_only)


@dataclass(frozen=True)
class Moment:
    """What has been used of the machine up to a moment, in seconds of CPU time."""

    time: float
    machine: float
    benchmark: float

    @classmethod
    def now(cls, filter: Filter) -> Moment:
        """Returns this moment, when no load generator runs."""
        user, nice, system, _, _, *interrupts = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = filter.cpu_seconds() + time.process_time() + children.ru_utime + children.ru_stime
        ticks = user + nice + system + sum(interrupts)
        return cls(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), ours)

    def others_since(self, before: Moment) -> float:
        """Returns how many percent of a core everything else had meanwhile, stolen time with it."""
        others = self.machine - before.machine - (self.benchmark - before.benchmark)
        return max(others, 0) / (self.time - before.time) * 100


def connections(generator: subprocess.Popen[str]) -> int:
    """Returns about how many connections the load generator has open."""
    try:
        return len(os.listdir(f"/proc/{generator.pid}/fd"))
    except OSError:
        return 0


def measure(
    contender: Contender, workload: Workload, seconds: float, where: Mapping[str, Any]
) -> dict[str, Any]:
    """Lets one contender have its turn, and returns its figures."""
    duration = seconds * workload.length
    base = 0.0
    with start(contender, workload, where) as filter:
        if workload.idle:
            # What it has when it is warm is none of the idle connections' memory.
            outcome(generate(workload, filter, "--seconds", str(WARMUP), idle=0), filter)
            base = filter.resident_kib()
        began = Moment.now(filter)
        generator = generate(workload, filter, "--warmup", str(WARMUP), "--seconds", str(duration))
        # Late in the run, with all connections there. The idle ones come first.
        resident, deadline, begun = 0.0, math.inf, time.monotonic()
        while generator.poll() is None and not resident:
            if time.monotonic() > begun + PATIENCE:
                generator.kill()
                generator.communicate()
                raise Failed("it does not come to an end")
            if deadline == math.inf and connections(generator) >= workload.idle:
                deadline = time.monotonic() + WARMUP + duration * 0.7
            if time.monotonic() >= deadline:
                resident = filter.resident_kib()
            time.sleep(0.02)
        load = outcome(generator, filter)
        ended = Moment.now(filter)
    check_work(load, workload)
    units = load[workload.unit + "s"]
    figures: dict[str, Any] = {
        "per_second": load[workload.unit + "s_per_second"],
        "cpu_us": sum(used for used in load["cpu_of"].values() if used) / units * 1e6,
        **{f"{name}_us": value for name, value in load["latency_us"].items()},
        "resident_kib": resident,
        "switches": filter.switches / load[f"all_{workload.unit}s"],
        "others_percent": ended.others_since(began),
        "units": units,
        # At 100 the load generator, which has one thread, is the limit.
        "load_percent": load["cpu_seconds"] / load["seconds"] * 100,
        # What the filter has negotiated: which steps it does not want or does not answer.
        "protocol": [hex(asked["protocol"]) for asked in load["negotiated"]],
    }
    if workload.idle:
        figures["idle_kib"] = (resident - base) / workload.idle
        figures["idle_beyond_kib"] = figures["idle_kib"] - where["object_kib"]
    return figures


def trace(contender: Contender, workload: Workload, where: Mapping[str, Any]) -> dict[str, float]:
    """Returns how often a contender makes which system call for each message or connection."""
    with start(contender, workload, where) as filter:
        few = str(workload.load["sessions"])
        outcome(generate(workload, filter, "--connections", few), filter)  # warm
        with strace.Counting(filter.tree(), filter.folder) as counting:
            load = outcome(
                generate(workload, filter, "--connections", str(workload.traced)), filter
            )
    units = load[f"all_{workload.unit}s"]
    return {name: count / units for name, count in counting.calls.items()}


def printed(*command: str) -> str:
    """Returns what a command prints; nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def locked(path: str, pattern: str) -> str:
    """Returns a version from a file of locked versions."""
    found = re.search(pattern, (BENCH / path).read_text(encoding="utf-8"))
    return found.group(1) if found else ""


OBJECTS = """
import os, sys
sys.path[:0] = sys.argv[1:3]
sys.argv = ["", "", "full"]
import filter
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, kept = resident(), [filter.Filter() for _ in range(50_000)]
print((resident() - before) / len(kept) / 1024)
"""


def object_kib(where: Mapping[str, Any]) -> float:
    """Returns the size in KiB of the filter's own object, of which there is one a connection."""
    size = printed(where["ours"], "-c", OBJECTS, where["tree"], str(BENCH / "contenders"))
    return round(float(size), 2) if size else 0.0


def versions(where: Mapping[str, Any]) -> dict[str, str]:
    """Returns what was measured, by name, as far as it says its version."""
    ours = "import sys; sys.path.insert(0, sys.argv[1]); import Milter; print(Milter.__version__)"
    package = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    found = {
        "Python": printed(where["ours"], "-c", "import platform; print(platform.python_version())"),
        "pymilter-cffi": printed(where["ours"], "-c", ours, where["tree"]),
        "pymilter": printed(where["oracle"], "-c", package, "pymilter"),
        "libmilter": printed("dpkg-query", "-W", "-f=${source:Upstream-Version}", "libmilter-dev"),
        "purepythonmilter": printed(where["ppm"], "-c", package, "purepythonmilter"),
        "kilter.service": printed(where["kilter"], "-c", package, "kilter.service"),
        "go-milter": locked("contenders/go_milter/go.mod", r"d--j/go-milter v(\S+)"),
        "indymilter": locked(
            "contenders/indymilter/Cargo.lock", r'name = "indymilter"\nversion = "([^"]+)"'
        ),
    }
    return {name: version for name, version in found.items() if version}


def machine() -> dict[str, Any]:
    """Returns what the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.system() + " " + re.split(r"[^\d.]", platform.release())[0],
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def left_out(contenders: list[Contender], where: Mapping[str, Any]) -> dict[str, str]:
    """Returns which contenders are not there, and why (scripts/setup-bench)."""
    reasons = {}
    if REASONS.exists():
        reasons = dict(line.split("\t", 1) for line in REASONS.read_text().splitlines())
    return {
        contender.name: reasons.get(contender.name, "not set up: scripts/setup-bench")
        for contender in contenders
        if not os.path.exists(contender.command[0].format(**where))
    }


def takes_part(contender: Contender, workload: Workload, named: bool) -> bool:
    """Tells whether a contender is measured with a workload. One that was named on the command line
    is, unless the workload is for others only.
    """
    if contender.name in workload.without:
        return False
    if workload.only:
        return contender.name in workload.only
    return named or contender.everywhere or contender.name in workload.besides


Turn = tuple[Workload, int, Contender]


def turns(
    workloads: list[Workload], contenders: list[Contender], rounds: int, named: bool
) -> list[Turn]:
    """Returns who takes a turn when: all of a workload's contenders in each round, one after the
    other, so that the machine's moods meet them alike, and another one begins each round.
    """
    planned = []
    for workload in workloads:
        taking_part = [one for one in contenders if takes_part(one, workload, named)]
        for number in range(rounds):
            first = number % len(taking_part) if taking_part else 0
            for contender in taking_part[first:] + taking_part[:first]:
                planned.append((workload, number, contender))
    return planned


def run(
    planned: list[Turn], seconds: float, with_strace: bool, where: Mapping[str, Any]
) -> dict[str, Any]:
    """Lets everyone have their turns, and returns what is known afterwards."""
    results: dict[str, Any] = {"runs": [], "failures": [], "syscalls": []}
    counted = [
        (workload, contender)
        for workload, number, contender in planned
        if with_strace and workload.traced and number == 0
    ]
    progress = Progress(len(planned) + len(counted))
    for workload, number, contender in planned:
        progress.step(f"{workload.name}, round {number + 1}: {contender.name}")
        row = {"workload": workload.name, "contender": contender.name, "round": number}
        try:
            results["runs"].append({**row, **measure(contender, workload, seconds, where)})
        except Failed as error:
            results["failures"].append({**row, "why": str(error)})
            progress.say(f"{workload.name}: {contender.name}: {error}")
    for workload, contender in counted:
        progress.step(f"{workload.name}, system calls: {contender.name}")
        row = {"workload": workload.name, "contender": contender.name}
        try:
            results["syscalls"].append({**row, "calls": trace(contender, workload, where)})
        except Failed as error:
            progress.say(f"{workload.name}: system calls of {contender.name}: {error}")
    progress.end()
    return results


def chosen(names: str | None, table: tuple[Any, ...], what: str) -> list[Any]:
    """Returns the rows of a table that a comma-separated list names; all of them for None."""
    if names is None:
        return list(table)
    by_name = {row.name: row for row in table}
    unknown = set(names.split(",")) - set(by_name)
    if unknown:
        raise SystemExit(f"no such {what}: {', '.join(sorted(unknown))}")
    return [by_name[name] for name in names.split(",")]


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = ", ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--only", metavar="NAMES", help=f"of the workloads {names}")
    names = ", ".join(contender.name for contender in CONTENDERS)
    parser.add_argument("--contenders", metavar="NAMES", help=f"of the contenders {names}")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn (1.5)")
    parser.add_argument("--no-strace", action="store_true", help="do not count system calls")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--tree", default=str(ROOT), help="measure the library in this directory")
    parser.add_argument(
        "--docs",
        action=argparse.BooleanOptionalAction,
        help="whether to write docs/benchmarks.md and what is beside it (if nothing is left out"
        " with --only or --contenders)",
    )
    options = parser.parse_args()
    if options.docs is None:
        options.docs = options.only is None and options.contenders is None
    return options


def main() -> int:
    """Measures, prints, writes."""
    options = parse()
    workloads = chosen(options.only, WORKLOADS, "workload")
    contenders = chosen(options.contenders, CONTENDERS, "contender")
    where: dict[str, Any] = {**places(), "tree": os.path.abspath(options.tree)}
    where["object_kib"] = object_kib(where)
    missing = left_out(contenders, where)
    # So that no filter is left behind when this is stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # The many connections of some workloads, here and in what is started from here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    planned = turns(
        workloads,
        [contender for contender in contenders if contender.name not in missing],
        options.rounds,
        options.contenders is not None,
    )
    begun = time.monotonic()
    found = run(planned, options.seconds, strace.available() and not options.no_strace, where)
    results = {
        "machine": machine(),
        "versions": versions(where),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "took_minutes": round((time.monotonic() - begun) / 60, 1),
        "filter_object_kib": where["object_kib"],
        "left_out": missing,
        **found,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report.write_json(results, options.json)
    print(report.plain(results))
    if options.docs:
        report.write_docs(results, ROOT / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
