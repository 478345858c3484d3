"""Who is measured, and with what: two tables, and nothing that runs.

A contender is a program `NAME SOCKET WORKLOAD` (README.md); a workload is what the load generator
plays, and which of the filter's variants answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contender:
    """A filter to measure.

    `command` may use {ours} and {oracle}, {ppm}, {kilter} (interpreters), {bench} (this directory)
    and {build} (where the compiled contenders are).
    """

    name: str
    title: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    # Beyond the workloads that name it: none, for what would only cost time.
    everywhere: bool = True


@dataclass(frozen=True)
class Workload:
    """What is played: a variant of the filter, and the generator's options."""

    name: str
    title: str
    variant: str
    load: dict[str, int]
    tcp: bool = False
    style: str = "postfix"
    # What one is: "message" or "connection".
    unit: str = "message"
    # Only these, where not all take part; and these besides those that are everywhere.
    only: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    # Whose system calls are worth a run under strace.
    strace: bool = False


# The pool's size: as a filter would have it whose callbacks block now and then.
POOL = {"MILTER_THREADS": "8"}
PYTHON_FILTER = "{bench}/contenders/filter.py"

CONTENDERS = (
    Contender("thread", "pymilter-cffi, thread per connection", ("{ours}", PYTHON_FILTER)),
    Contender("pool", "pymilter-cffi, pool (threads=8)", ("{ours}", PYTHON_FILTER), POOL),
    Contender(
        "thread-w2",
        "pymilter-cffi, thread per connection, 2 workers",
        ("{ours}", PYTHON_FILTER),
        {"MILTER_WORKERS": "2"},
        everywhere=False,
    ),
    Contender(
        "pool-w2",
        "pymilter-cffi, pool, 2 workers",
        ("{ours}", PYTHON_FILTER),
        {"MILTER_WORKERS": "2", **POOL},
        everywhere=False,
    ),
    Contender("pymilter", "pymilter on libmilter", ("{oracle}", PYTHON_FILTER)),
    Contender("libmilter", "C on libmilter", ("{build}/libmilter_c",)),
    Contender("floor", "bare C responder, no filter (the floor)", ("{build}/floor",)),
    Contender(
        "purepythonmilter",
        "purepythonmilter",
        ("{ppm}", "{bench}/contenders/purepythonmilter_filter.py"),
    ),
    Contender("kilter", "kilter.service", ("{kilter}", "{bench}/contenders/kilter_filter.py")),
    Contender("go-milter", "go-milter (d--j)", ("{build}/go-milter",)),
    Contender("indymilter", "indymilter (Rust)", ("{build}/indymilter",)),
)

TYPICAL = {"sessions": 10, "messages": 1, "headers": 20, "body": 8192, "recipients": 1}

WORKLOADS = (
    Workload(
        "full",
        "Every step replied",
        "full",
        TYPICAL,
        besides=("thread-w2", "pool-w2"),
        strace=True,
    ),
    Workload(
        "noreply",
        "No-reply steps, 10 messages a connection",
        "noreply",
        {**TYPICAL, "messages": 10},
        besides=("thread-w2", "pool-w2"),
        strace=True,
    ),
    Workload(
        "reject",
        "Connect and reject",
        "reject",
        TYPICAL,
        unit="connection",
        besides=("thread-w2", "pool-w2"),
        strace=True,
    ),
)
