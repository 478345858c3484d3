"""The benchmark's arithmetic: medians, ratios, targets, tables. No figure is asserted on."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from bench import plot, report, strace, targets
from bench.figures import Spread, ratio, spread
from bench.plan import CONTENDERS, WORKLOADS
from bench.run import turns
from bench.targets import Target, judge


def _run(workload, contender, number, **figures):
    return {"workload": workload, "contender": contender, "round": number, **figures}


# Three rounds, in the third of which the machine did half as much for both.
RUNS = [
    _run("full", "pool", 0, per_second=300.0, cpu_us=100.0),
    _run("full", "pymilter", 0, per_second=100.0, cpu_us=400.0),
    _run("full", "pymilter", 1, per_second=110.0, cpu_us=500.0),
    _run("full", "pool", 1, per_second=330.0, cpu_us=100.0),
    _run("full", "pool", 2, per_second=150.0, cpu_us=200.0),
    _run("full", "pymilter", 2, per_second=50.0, cpu_us=600.0),
    _run("reject", "pool", 0, per_second=9000.0, cpu_us=11.0),
]


def results(runs, **more):
    """A made-up outcome of a run of the benchmark."""
    return {
        "machine": {
            "processor": "A Processor",
            "cores": 2,
            "memory_gib": 8.0,
            "kernel": "Linux 9.9",
            "day": "2026-01-02",
        },
        "versions": {"pymilter": "1.0.5"},
        "rounds": 3,
        "seconds": 1.5,
        "left_out": {},
        "runs": runs,
        "failures": [],
        "syscalls": [],
        **more,
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], Spread(7.0, 7.0, 7.0)),
        ([3.0, 1.0, 2.0], Spread(2.0, 1.0, 3.0)),
        ([4.0, 1.0, 2.0, 100.0], Spread(3.0, 1.0, 100.0)),
    ],
)
def test_spread_is_the_median_and_the_extremes(values, expected):
    """A figure is the middle round's, between the lowest and the highest; the order is all one."""
    assert expected == Spread.of(values)


def test_spread_takes_the_rounds_that_have_the_figure():
    """Other contenders, other workloads and rounds without the figure do not count."""
    runs = [*RUNS, _run("full", "pool", 3, per_second=None)]
    assert Spread(300.0, 150.0, 330.0) == spread(runs, "full", "pool", "per_second")
    assert spread(runs, "full", "kilter", "per_second") is None
    assert spread(runs, "full", "pool", "idle_kib") is None


def test_ratio_is_taken_round_by_round():
    """A round in which everything was slow does not move the ratio, as that of the medians would:
    500 / 100 where the rounds have 4, 5 and 3.
    """
    assert Spread(3.0, 3.0, 3.0) == ratio(
        RUNS, "per_second", ("full", "pool"), ("full", "pymilter")
    )
    assert Spread(4.0, 3.0, 5.0) == ratio(RUNS, "cpu_us", ("full", "pymilter"), ("full", "pool"))


def test_ratio_needs_a_round_with_both():
    """A round in which one of the two failed, or yielded nothing to divide by, yields no ratio."""
    runs = [
        _run("full", "pool", 0, cpu_us=5.0),
        _run("full", "floor", 1, cpu_us=5.0),
        _run("full", "pool", 2, cpu_us=5.0),
        _run("full", "floor", 2, cpu_us=0.0),
    ]
    assert ratio(runs, "cpu_us", ("full", "pool"), ("full", "floor")) is None


POOL, PYMILTER = ("full", "pool"), ("full", "pymilter")


@pytest.mark.parametrize(
    ("target", "met"),
    [
        # The ratio is 3.
        (Target("", "per_second", POOL, PYMILTER, least=3), True),
        (Target("", "per_second", POOL, PYMILTER, least=3.01), False),
        (Target("", "per_second", POOL, PYMILTER, most=3), True),
        (Target("", "per_second", POOL, PYMILTER, most=2.99), False),
        # The figure itself is 300, with 150 and 330 beside it: the median decides.
        (Target("", "per_second", POOL, least=300), True),
        (Target("", "per_second", POOL, least=301), False),
        (Target("", "per_second", POOL, most=300), True),
        (Target("", "per_second", POOL, most=299), False),
        # Nothing to tell from.
        (Target("", "per_second", POOL, ("full", "floor"), least=1), None),
        (Target("", "idle_kib", POOL, most=4), None),
    ],
)
def test_a_target_is_met_or_not_by_the_median(target, met):
    """Met on the limit itself, short just beyond it, neither without figures."""
    assert met is judge(target, RUNS).met


def test_targets_name_workloads_and_contenders_that_there_are():
    """A target with a misspelt name would never be measured; one without a limit could not fail."""
    workloads = {workload.name: workload for workload in WORKLOADS}
    contenders = {contender.name for contender in CONTENDERS}
    for target in targets.TARGETS:
        assert (target.least is None) != (target.most is None), target
        for workload, contender in filter(None, (target.of, target.by)):
            assert contender in contenders, target
            only = workloads[workload].only
            assert not only or contender in only, target


def test_cpu_targets_divide_pymilter_by_ours():
    """ "1.6 times less CPU" holds for half of pymilter's CPU and not for twice it."""
    cheap = [_run("full", "thread", 0, cpu_us=50.0), _run("full", "pymilter", 0, cpu_us=100.0)]
    dear = [_run("full", "thread", 0, cpu_us=200.0), _run("full", "pymilter", 0, cpu_us=100.0)]
    target = next(one for one in targets.TARGETS if one.text == "full: CPU, pymilter / thread")
    assert 1.6 == target.least
    assert judge(target, cheap).met is True
    assert judge(target, dear).met is False


def test_table_has_a_row_for_each_contender_with_figures():
    """Medians with their spread, in the order of the plan; what was not measured is a dash."""
    figures = {
        "p50_us": 1500.0,
        "p99_us": 25_000.0,
        "max_us": 250_000.0,
        "resident_kib": 2048.0,
        "switches": 3.0,
        "load_percent": 55.0,
    }
    runs = [{**run, **figures} for run in RUNS]
    counted = [
        {"workload": "full", "contender": "pool", "calls": {"futex": 1.25, "recvfrom": 28.75}}
    ]
    full = next(workload for workload in WORKLOADS if workload.name == "full")
    rows = report.table(results(runs, syscalls=counted), full)
    titles = {contender.name: contender.title for contender in CONTENDERS}
    assert [
        [
            *[titles["pool"], "300 (150..330)", "100 (100..200)", "1.50", "25.0", "250", "2.00"],
            *["3.00", "55.0", "30.0", "1.25"],
        ],
        [
            *[titles["pymilter"], "100 (50.0..110)", "500 (400..600)", "1.50", "25.0", "250"],
            *["2.00", "3.00", "55.0", "-", "-"],
        ],
    ] == rows[1:]
    assert {len(rows[0])} == {len(row) for row in rows}


def test_markdown_aligns_figures_to_the_right():
    """One heading, one rule, one line a row."""
    assert ["| | a |", "| --- | --: |", "| x | 1 |"] == [
        re.sub(" +", " ", line) for line in report.markdown([["", "a"], ["x", "1"]])
    ]


def test_the_page_says_what_is_missing_and_keeps_what_people_wrote():
    """Between the marks all is made anew; who was left out, failed or fell short is named."""
    runs = [{**run, "cpu_us": 100.0} for run in RUNS]
    failed = {"workload": "full", "contender": "kilter", "round": 1, "why": "it ended"}
    outcome = results(runs, left_out={"go-milter": "no Go"}, failures=[failed])
    page = f"Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n"
    made = report.inserted(page, report.generated(outcome))
    assert made.startswith(f"Before.\n{report.BEGIN}\n")
    assert made.endswith(f"{report.END}\nAfter.\n")
    assert "old" not in made
    for expected in (
        "A Processor, 2 cores, 8.0 GiB, Linux 9.9",
        "pymilter 1.0.5",
        "Left out: go-milter (d--j), Go: no Go.",
        "- full: kilter: it ended",
        "| full: speed, pool / pymilter | 3.00 |  | 3.00 | met |",
        "| full: CPU, pymilter / pool | 4.00 |  | 1.00 | falls short |",
        "| busy: speed, pool, 2 workers / 1 | 1.60 |  | - | not measured |",
    ):
        assert expected in made
    # Made from its own outcome it stays as it is.
    assert made == report.inserted(made, report.generated(outcome))
    with pytest.raises(ValueError, match="marks"):
        report.inserted("a page without marks", "text")


def test_the_report_says_what_else_the_machine_did():
    """The median and the worst turn, as percents of a core; nothing if it was not measured."""
    runs = [_run("full", "pool", n, others_percent=percent) for n, percent in enumerate((3, 80, 5))]
    said = report.disturbance(results(runs))
    assert "other programs used 5 % of a core in the middle turn and 80 % in the worst" in said
    assert said in report.plain(results(runs))
    assert "" == report.disturbance(results(RUNS))


def test_json_keeps_everything(tmp_path):
    """What is written for people to read line by line is what was measured."""
    outcome = results(RUNS, left_out={"go-milter": 'no "Go"'})
    report.write_json(outcome, tmp_path / "results.json")
    assert outcome == json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))


def test_plots_are_well_formed_and_to_scale():
    """A bar for each contender with figures, as long as its median is of the highest value."""
    svg = ElementTree.fromstring(plot.drawings(RUNS)["speed"])
    widths = [float(bar.get("width")) for bar in svg.iter("{http://www.w3.org/2000/svg}rect")][
        1:
    ]  # after the background
    full, whole = widths[:2], plot.PANEL - plot.NAMES - plot.FIGURES
    assert pytest.approx([300 / 330 * whole, 100 / 330 * whole], abs=0.1) == full
    assert 3 == len(widths)


def test_every_contender_has_its_turn_in_each_round_and_another_begins():
    """Nobody always runs first, or always behind the same neighbour's noise."""
    workload = next(one for one in WORKLOADS if one.name == "full")
    three = [one for one in CONTENDERS if one.name in ("thread", "pool", "pymilter")]
    order = [(number, one.name) for _, number, one in turns([workload], three, 3, named=False)]
    assert [
        *[(0, "thread"), (0, "pool"), (0, "pymilter")],
        *[(1, "pool"), (1, "pymilter"), (1, "thread")],
        *[(2, "pymilter"), (2, "thread"), (2, "pool")],
    ] == order


def test_who_is_not_everywhere_takes_part_where_named():
    """Two workers are measured where a workload says so, and where the command line names them;
    a workload for some is for nobody else.
    """
    by_name = {one.name: one for one in WORKLOADS}
    kinds = [one for one in CONTENDERS if one.name in ("pool-w2", "pymilter")]

    def names(workload, named):
        return [one.name for *_, one in turns([by_name[workload]], kinds, 1, named)]

    assert ["pool-w2", "pymilter"] == names("full", False)
    assert ["pymilter"] == names("body1m", False)
    assert ["pool-w2", "pymilter"] == names("body1m", True)
    assert ["pool-w2"] == names("busy", True)


def test_who_cannot_take_part_does_not():
    """A contender that a workload excludes is not measured with it, even if it was named."""
    workload = next(one for one in WORKLOADS if one.name == "idle5000")
    kinds = [one for one in CONTENDERS if one.name in ("kilter", "pymilter")]
    assert ["pymilter"] == [one.name for *_, one in turns([workload], kinds, 1, named=True)]


def test_system_calls_are_read_from_what_strace_prints():
    """With and without a column of errors; the sum at the end is none of them."""
    printed = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 76.92    0.004000           3      1200           sendmsg
 23.08    0.001200          12        96        12 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.005200           4      1296        12 total
"""
    assert {"sendmsg": 1200, "futex": 96} == strace.calls(printed)
