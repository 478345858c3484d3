"""The targets: ratios between figures of one run, as data, and how a run is held against them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.figures import Run, Spread, ratio, spread


@dataclass(frozen=True)
class Target:
    """One figure of a contender with a workload, divided by another's; or the figure itself.

    Exactly one of `least` and `most` is given; the median is held against it.
    """

    text: str
    figure: str
    # Workload and contender.
    of: tuple[str, str]
    # What it is divided by; None: it is no ratio.
    by: tuple[str, str] | None = None
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of a target: the value, None if it was not measured, and whether it is met."""

    target: Target
    value: Spread | None
    met: bool | None


def judge(target: Target, runs: Iterable[Run]) -> Verdict:
    """Holds the runs against one target."""
    if target.by is None:
        value = spread(runs, *target.of, target.figure)
    else:
        value = ratio(runs, target.figure, target.of, target.by)
    if value is None:
        return Verdict(target, None, None)
    if target.least is not None:
        return Verdict(target, value, value.median >= target.least)
    assert target.most is not None
    return Verdict(target, value, value.median <= target.most)


# Against pymilter on libmilter: how many times less CPU per message in a thread per connection, how
# many times more messages per second in the pool, how many times less CPU in the pool; and, against
# C on libmilter, how many times more messages per second in the pool.
TABLE = {
    "full": (1.6, 3, 4, 2.3),
    "noreply": (3, 8, 12, 1.5),
    "reject": (2.5, 3.5, 5, 2),
    "sessions500": (1.6, 7, 12, 3.5),
    "body1m": (1.4, 1.4, 2.2, 1.2),
    "rcpt50": (1.6, 2.8, 3.8, 2.3),
}


def _of_the_table() -> Iterable[Target]:
    for workload, (thread_cpu, pool_speed, pool_cpu, pool_speed_c) in TABLE.items():
        thread, pool = (workload, "thread"), (workload, "pool")
        pymilter, libmilter = (workload, "pymilter"), (workload, "libmilter")
        yield Target(
            f"{workload}: CPU, pymilter / thread", "cpu_us", pymilter, thread, least=thread_cpu
        )
        yield Target(
            f"{workload}: speed, pool / pymilter", "per_second", pool, pymilter, least=pool_speed
        )
        yield Target(f"{workload}: CPU, pymilter / pool", "cpu_us", pymilter, pool, least=pool_cpu)
        yield Target(
            f"{workload}: speed, pool / C on libmilter",
            "per_second",
            pool,
            libmilter,
            least=pool_speed_c,
        )


TARGETS = (
    *_of_the_table(),
    Target("full: CPU, pool / floor", "cpu_us", ("full", "pool"), ("full", "floor"), most=1.6),
    Target("idle5000: KiB a connection, pool", "idle_beyond_kib", ("idle5000", "pool"), most=4),
    Target(
        "idle5000: KiB a connection, thread", "idle_beyond_kib", ("idle5000", "thread"), most=64
    ),
    *(
        Target(
            f"block: speed, {mode} / pymilter",
            "per_second",
            ("block", mode),
            ("block", "pymilter"),
            least=1,
        )
        for mode in ("thread", "pool")
    ),
    # A step held back by delayed acknowledgements takes 40 ms, and a message has 28 steps.
    *(
        Target(f"tcp: median latency, us, {mode}", "p50_us", ("tcp", mode), most=40_000)
        for mode in ("thread", "pool")
    ),
    *(
        Target(
            f"busy: speed, {mode}, 2 workers / 1",
            "per_second",
            ("busy", f"{mode}-w2"),
            ("busy", mode),
            least=1.6,
        )
        for mode in ("thread", "pool")
    ),
)


def judge_all(runs: Iterable[Run], targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Holds the runs against all targets, in their order."""
    runs = list(runs)
    return [judge(target, runs) for target in targets]
