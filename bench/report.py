#!/usr/bin/env python3
"""The results as text: lines for a terminal, tables for the page, the JSON file.

bench/report.py RESULTS.json        writes docs/benchmarks.md anew from these results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from bench import plot  # noqa: E402 - needs the path above
from bench.figures import Spread, number, spread, values  # noqa: E402
from bench.plan import CONTENDERS, WORKLOADS, Contender, Workload  # noqa: E402
from bench.targets import TARGETS, Verdict, judge_all  # noqa: E402

Results = Mapping[str, Any]

# Between these lines the page is generated.
BEGIN = "<!-- results: made by bench/report.py -->"
END = "<!-- end of the results -->"


def ranged(found: Spread | None, scale: float = 1) -> str:
    """Returns a median and its spread, divided by `scale`."""
    if found is None:
        return "-"
    low, median, high = (number(value / scale) for value in (found.low, found.median, found.high))
    return median if low == high else f"{median} ({low}..{high})"


def taking_part(results: Results, workload: Workload) -> list[Contender]:
    """Returns of whom there are figures with a workload, in the order of the plan."""
    runs = results["runs"]
    return [one for one in CONTENDERS if values(runs, workload.name, one.name, "per_second")]


def calls(results: Results, workload: Workload, contender: Contender) -> dict[str, float]:
    """Returns the system calls by name for each message or connection; empty if not counted."""
    for row in results["syscalls"]:
        if (row["workload"], row["contender"]) == (workload.name, contender.name):
            return dict(row["calls"])
    return {}


def table(results: Results, workload: Workload) -> list[list[str]]:
    """Returns the rows of a workload's table, the first with the headings."""
    runs = results["runs"]
    unit = workload.unit
    headings = [
        "",
        f"{unit}s per second",
        f"CPU per {unit}, µs",
        "p50, ms",
        "p99, ms",
        "max, ms",
        "resident, MiB",
        "switches",
    ]
    if workload.idle:
        headings[-1] = "KiB for each idle connection"
    headings.append("generator, %")
    if workload.traced:
        headings += ["system calls", "futex"]
    rows = [headings]
    for contender in taking_part(results, workload):

        def figure(name: str, scale: float = 1, who: str = contender.name) -> str:
            return ranged(spread(runs, workload.name, who, name), scale)

        def middle(name: str, scale: float = 1, who: str = contender.name) -> str:
            found = spread(runs, workload.name, who, name)
            return number(found.median / scale) if found else "-"

        row = [
            contender.title,
            figure("per_second"),
            figure("cpu_us"),
            middle("p50_us", 1000),
            middle("p99_us", 1000),
            middle("max_us", 1000),
            middle("resident_kib", 1024),
            figure("idle_kib") if workload.idle else middle("switches"),
            middle("load_percent"),
        ]
        if workload.traced:
            counted = calls(results, workload, contender)
            row += [
                number(sum(counted.values())) if counted else "-",
                number(counted.get("futex", 0)) if counted else "-",
            ]
        rows.append(row)
    return rows


def markdown(rows: list[list[str]]) -> list[str]:
    """Returns a table in Markdown; figures stand at the right."""
    rule = ["---"] + ["--:"] * (len(rows[0]) - 1)
    return ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]


def aligned(rows: list[list[str]]) -> list[str]:
    """Returns a table for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def failures(results: Results) -> list[str]:
    """Returns a line for each contender that failed with a workload."""
    lines: dict[tuple[str, str], str] = {}
    for row in results["failures"]:
        lines[row["workload"], row["contender"]] = row["why"].replace("\n", " ")
    return [f"{workload}: {contender}: {why}" for (workload, contender), why in lines.items()]


def verdict_rows(verdicts: Iterable[Verdict]) -> list[list[str]]:
    """Returns the rows of the table of targets."""
    rows = [["target", "at least", "at most", "measured", ""]]
    for verdict in verdicts:
        target = verdict.target
        outcome = {True: "met", False: "falls short", None: "not measured"}[verdict.met]
        rows.append(
            [
                target.text,
                "" if target.least is None else number(target.least),
                "" if target.most is None else number(target.most),
                ranged(verdict.value),
                outcome,
            ]
        )
    return rows


def disturbance(results: Results) -> str:
    """Returns a sentence on what else the machine did; empty without figures."""
    percents = [run["others_percent"] for run in results["runs"] if "others_percent" in run]
    if not percents:
        return ""
    found = Spread.of(percents)
    return (
        f"Meanwhile other programs used {found.median:.0f} % of a core in the middle turn and"
        f" {found.high:.0f} % in the worst."
    )


def plain(results: Results) -> str:
    """Returns the results as lines for a terminal."""
    lines: list[str] = []
    for workload in WORKLOADS:
        rows = table(results, workload)
        if len(rows) > 1:
            lines += ["", f"{workload.title} ({workload.name})", *aligned(rows)]
    lines += ["", disturbance(results)]
    lines += [f"failed: {line}" for line in failures(results)]
    lines += [f"left out: {name}: {why}" for name, why in results["left_out"].items()]
    return "\n".join(lines)


def generated(results: Results) -> str:
    """Returns the part of the page that is made from the results."""
    machine = results["machine"]
    lines = [
        BEGIN,
        "",
        f"Measured on {machine['day']}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gib']} GiB, {machine['kernel']};"
        f" {results['rounds']} rounds of {results['seconds']} seconds.",
        *([disturbance(results)] if disturbance(results) else []),
        "",
        "Versions: "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + ".",
    ]
    titles = {contender.name: contender.title for contender in CONTENDERS}
    for name, why in results["left_out"].items():
        lines += ["", f"Left out: {titles[name]}: {why}."]
    for name, (_, title, *_) in plot.PLOTS.items():
        lines += ["", f"![{title}](benchmarks-{name}.svg)"]
    for workload in WORKLOADS:
        rows = table(results, workload)
        if len(rows) > 1:
            lines += ["", f"### {workload.title}", "", workload.text, "", *markdown(rows)]
    if results["failures"]:
        lines += ["", "### What failed", ""]
        lines += [f"- {line}" for line in failures(results)]
    lines += ["", "### Targets", "", *markdown(verdict_rows(judge_all(results["runs"], TARGETS)))]
    return "\n".join([*lines, "", END])


def inserted(page: str, text: str) -> str:
    """Returns a page with the part between its two marks replaced. ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks to put the results between")
    return before + text + after


def shortened(value: Any) -> Any:
    """Returns the same with figures of five digits, which is more than they are good for."""
    if isinstance(value, dict):
        return {name: shortened(inner) for name, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_json(results: Results, path: Path) -> None:
    """Writes the results with a line for each run."""
    runs = {"runs", "syscalls", "failures"}
    parts = [
        f"{json.dumps(name)}: {json.dumps(value)}"
        for name, value in results.items()
        if name not in runs
    ]
    for name in sorted(runs):
        rows = ",\n".join("  " + json.dumps(shortened(row)) for row in results[name])
        parts.append(f"{json.dumps(name)}: [\n{rows}\n]")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def write_docs(results: Results, docs: Path) -> None:
    """Writes the page's tables, the plots and the JSON beside it."""
    page = docs / "benchmarks.md"
    text = inserted(page.read_text(encoding="utf-8"), generated(results))
    page.write_text(text, encoding="utf-8")
    write_json(results, docs / "benchmarks.json")
    for name, drawing in plot.drawings(results["runs"]).items():
        (docs / f"benchmarks-{name}.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    write_docs(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), ROOT / "docs")
