"""The plots: bars with their spread, as SVG, made by hand so that nothing needs to be installed."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from bench.figures import Run, Spread, number, spread
from bench.plan import CONTENDERS, WORKLOADS, Contender, Workload

OURS, FLOOR, OTHERS = "#2563a8", "#9a9a9a", "#c9803a"
INK, QUIET = "#222222", "#777777"

ROW = 17  # from bar to bar
BAR = 11  # a bar's height
NAMES = 192  # for the contenders' names
PANEL = 484  # a panel's width, with the names
GAP = 30
HEAD = 30  # of a panel
FIGURES = 62  # for the figure behind the longest bar

SHORT = {
    "thread": "pymilter-cffi, threads",
    "pool": "pymilter-cffi, pool",
    "thread-w2": "pymilter-cffi, threads, 2 workers",
    "pool-w2": "pymilter-cffi, pool, 2 workers",
    "pymilter": "pymilter on libmilter",
    "libmilter": "C on libmilter",
    "floor": "no filter: the floor",
}


def colour(contender: Contender) -> str:
    """Returns a bar's colour: this library, the floor, the others."""
    if contender.name == "floor":
        return FLOOR
    return OURS if "{ours}" in contender.command else OTHERS


def text(x: float, y: float, content: str, **attributes: str) -> str:
    """Returns a piece of text; an underscore in an attribute's name stands for a hyphen."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(content)}</text>'


# Figure, title, what it is divided by, and which is better, by the file's name.
PLOTS = {
    "speed": ("per_second", "Messages (or connections) per second", 1, "More"),
    "cpu": ("cpu_us", "CPU time of the filter per message (or connection), µs", 1, "Less"),
    "latency": ("p99_us", "Latency that 99 of 100 messages stay under, ms", 1000, "Less"),
    "memory": ("idle_kib", "Memory for each idle connection, KiB", 1, "Less"),
}


def bars(
    workload: Workload, rows: list[tuple[Contender, Spread]], scale: float, x: float, y: float
) -> list[str]:
    """Returns one panel: a workload's name, and a bar with its spread for each contender."""
    parts = [text(x, y + 14, workload.title, font_weight="bold", fill=INK)]
    most = max(found.high for _, found in rows) or 1
    width = PANEL - NAMES - FIGURES
    for row, (contender, found) in enumerate(rows):
        top = y + HEAD + row * ROW
        middle = top + BAR / 2
        left = x + NAMES
        low, median, high = (
            left + max(value, 0) / most * width for value in (found.low, found.median, found.high)
        )
        name = SHORT.get(contender.name, contender.title)
        parts += [
            text(left - 6, middle + 4, name, text_anchor="end", fill=INK),
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(median - left, 1):.1f}"'
            f' height="{BAR}" fill="{colour(contender)}"/>',
            f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 3:.1f}v6'
            f'M{high:.1f} {middle - 3:.1f}v6" stroke="{INK}" fill="none"/>',
            text(high + 5, middle + 4, number(found.median / scale), fill=QUIET),
        ]
    return parts


def drawing(runs: Iterable[Run], figure: str, title: str, scale: float, better: str) -> str:
    """Returns a figure of every workload as panels in two columns. Each has a scale of its own."""
    runs = list(runs)
    panels = []
    for workload in WORKLOADS:
        found = [(one, spread(runs, workload.name, one.name, figure)) for one in CONTENDERS]
        rows = [(one, value) for one, value in found if value is not None]
        if rows:
            panels.append((workload, rows))
    note = f"{better} is better. Median of the rounds, and between which values they all lay."
    heights = [0.0, 0.0]
    parts = [
        text(20, 28, title, font_size="17", font_weight="bold", fill=INK),
        text(20, 47, note, fill=QUIET),
    ]
    for workload, rows in panels:
        column = 0 if heights[0] <= heights[1] else 1
        parts += bars(workload, rows, scale, 20 + column * (PANEL + GAP), 66 + heights[column])
        heights[column] += HEAD + len(rows) * ROW + 18
    columns = min(len(panels), 2)
    width, height = columns * (PANEL + GAP) - GAP + 40, 66 + max(heights)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}"'
            f' width="{width}" height="{height:.0f}" font-family="sans-serif" font-size="11">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height:.0f}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def drawings(runs: Iterable[Run]) -> dict[str, str]:
    """Returns all plots by name."""
    runs = list(runs)
    return {name: drawing(runs, *what) for name, what in PLOTS.items()}
