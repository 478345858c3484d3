"""Arithmetic on what was measured: medians, their spread, ratios, and the targets.

A *run* is one turn of one contender in one round of one workload: a dict as run.py writes it, with
`workload`, `contender`, `round` and the figures by name.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, and between which values they all lay."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Returns the spread of one value or more."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


def number(value: float) -> str:
    """Returns a figure with about three digits, which is what it is good for."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def values(runs: Iterable[Run], workload: str, contender: str, figure: str) -> dict[int, float]:
    """Returns a figure by round, without the rounds that did not yield it."""
    return {
        run["round"]: run[figure]
        for run in runs
        if run["workload"] == workload
        and run["contender"] == contender
        and run.get(figure) is not None
    }


def spread(runs: Iterable[Run], workload: str, contender: str, figure: str) -> Spread | None:
    """Returns a figure's spread over the rounds; None if no round yielded it."""
    found = values(runs, workload, contender, figure)
    return Spread.of(found.values()) if found else None


def ratio(
    runs: Iterable[Run], figure: str, above: tuple[str, str], below: tuple[str, str]
) -> Spread | None:
    """Returns the spread of `above` divided by `below`, each a workload and a contender.

    Divided round by round: what was measured within seconds met the same noise. None if no round
    has both.
    """
    runs = list(runs)
    dividends = values(runs, *above, figure)
    divisors = values(runs, *below, figure)
    quotients = [
        dividends[number] / divisors[number] for number in sorted(dividends) if divisors.get(number)
    ]
    return Spread.of(quotients) if quotients else None
