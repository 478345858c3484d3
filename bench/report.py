"""The results as text: lines for a terminal, tables for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.figures import Spread, spread
from bench.plan import CONTENDERS, WORKLOADS

Results = Mapping[str, Any]


def number(value: float) -> str:
    """Returns a figure with three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ranged(found: Spread | None) -> str:
    """Returns a median and its spread."""
    if found is None:
        return "-"
    return f"{number(found.median)} ({number(found.low)}..{number(found.high)})"


def plain(results: Results) -> str:
    """Returns the results as lines for a terminal."""
    lines = []
    runs = results["runs"]
    for workload in WORKLOADS:
        names = [
            contender.name
            for contender in CONTENDERS
            if spread(runs, workload.name, contender.name, "per_second")
        ]
        if not names:
            continue
        unit = workload.unit + "s"
        lines.append("")
        lines.append(f"{workload.title} ({workload.name})")
        lines.append(
            f"  {'':16} {unit + '/s':>26} {'CPU us/' + workload.unit:>26}"
            f" {'p50 us':>8} {'p99 us':>8} {'max us':>8} {'MiB':>6}"
        )
        for name in names:
            cells = {
                figure: spread(runs, workload.name, name, figure)
                for figure in ("per_second", "cpu_us", "p50_us", "p99_us", "max_us", "resident_kib")
            }
            lines.append(
                f"  {name:16} {ranged(cells['per_second']):>26} {ranged(cells['cpu_us']):>26}"
                f" {cells['p50_us'].median:8.0f} {cells['p99_us'].median:8.0f}"
                f" {cells['max_us'].median:8.0f} {cells['resident_kib'].median / 1024:6.1f}"
            )
    for name, why in results["left_out"].items():
        lines.append(f"left out: {name}: {why}")
    return "\n".join(lines)
