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
    and {build} (where the compiled contenders are); `environment`, {pool} (Workload.pool).
    """

    name: str
    title: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    # Whether it takes part in workloads that do not name it.
    everywhere: bool = True
    # It cannot listen on a unix socket, so its sessions are on TCP where others' are not.
    tcp_only: bool = False


@dataclass(frozen=True)
class Workload:
    """What is played: a variant of the filter, and the load generator's options."""

    name: str
    title: str
    # One sentence on what is played, for the page.
    text: str
    variant: str
    load: dict[str, int | str]
    tcp: bool = False
    # What figures are per: "message" or "connection".
    unit: str = "message"
    # Only these, where not all take part; and these besides those that are everywhere.
    only: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    # The pool's threads=N: as one would have it for a filter that blocks now and then.
    pool: int = 8
    # Not these; `text` says why.
    without: tuple[str, ...] = ()
    # Times as long as the others.
    length: float = 1
    # Whose system calls are worth a run under strace: so many connections. 0: not counted.
    traced: int = 0

    @property
    def idle(self) -> int:
        """How many idle connections there are."""
        return int(self.load.get("idle", 0))


POOL = {"MILTER_THREADS": "{pool}"}
PYTHON_FILTER = "{bench}/contenders/filter.py"

CONTENDERS = (
    Contender("thread", "pymilter-cffi, thread per connection", ("{ours}", PYTHON_FILTER)),
    Contender("pool", "pymilter-cffi, pool", ("{ours}", PYTHON_FILTER), POOL),
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
    Contender("floor", "floor: C responder without a filter", ("{build}/floor",)),
    Contender(
        "purepythonmilter",
        "purepythonmilter (TCP)",
        ("{ppm}", "{bench}/contenders/purepythonmilter_filter.py"),
        tcp_only=True,
    ),
    Contender("kilter", "kilter.service", ("{kilter}", "{bench}/contenders/kilter_filter.py")),
    Contender("go-milter", "go-milter (d--j), Go", ("{build}/go-milter",)),
    Contender("indymilter", "indymilter, Rust", ("{build}/indymilter",)),
)

TYPICAL = {"sessions": 10, "messages": 1, "headers": 20, "body": 8192, "recipients": 1}
WORKERS = ("thread-w2", "pool-w2")

WORKLOADS = (
    Workload(
        "full",
        "Every step replied",
        "10 sessions at once, one message a connection, 20 headers, 8 KiB; the filter answers"
        " every step.",
        "full",
        {**TYPICAL},
        besides=WORKERS,
        traced=100,
    ),
    Workload(
        "noreply",
        "No-reply steps, 10 messages a connection",
        "The same filter with every step but the end of the message negotiated to need no answer"
        " (`@Milter.noreply`); 10 sessions, 10 messages a connection.",
        "noreply",
        {**TYPICAL, "messages": 10},
        besides=WORKERS,
        traced=20,
    ),
    Workload(
        "reject",
        "Connect and reject",
        "10 sessions at once; `hello` rejects each, and the connection ends.",
        "reject",
        {**TYPICAL, "reject-at": "helo"},
        unit="connection",
        besides=WORKERS,
        traced=200,
    ),
    Workload(
        "sessions500",
        "500 sessions at once",
        "As the first, with 500 sessions at once.",
        "full",
        {**TYPICAL, "sessions": 500},
        length=2,
    ),
    Workload(
        "body1m",
        "1 MiB body",
        "As the first, with bodies of 1 MiB.",
        "full",
        {**TYPICAL, "body": 1 << 20},
        traced=20,
    ),
    Workload(
        "rcpt50",
        "50 recipients",
        "As the first, with 50 recipients.",
        "full",
        {**TYPICAL, "recipients": 50},
    ),
    Workload(
        "long",
        "Long-lived connections",
        "As the first, with 100 messages a connection.",
        "full",
        {**TYPICAL, "messages": 100},
    ),
    Workload(
        "idle5000",
        "5,000 idle connections",
        "5,000 connections that are silent after HELO, and the first workload beside them. Without"
        " kilter.service, which needs 1 MiB for each.",
        "full",
        {**TYPICAL, "idle": 5000},
        without=("kilter",),
    ),
    Workload(
        "block",
        "A filter that blocks",
        "`eom` sleeps for 20 ms; 100 sessions at once, and for once a pool with `threads=100`."
        " Without the floor, which has nothing to wait for.",
        "block",
        {**TYPICAL, "sessions": 100},
        without=("floor",),
        pool=100,
    ),
    Workload(
        "tcp",
        "TCP, as Sendmail writes",
        "As the first, on TCP, every packet a write of its own, as Sendmail does it.",
        "full",
        {**TYPICAL, "style": "sendmail"},
        tcp=True,
    ),
    Workload(
        "busy",
        "Workers",
        "`eom` computes for some milliseconds in Python, so that the filter is the limit and not"
        " the load generator.",
        "busy",
        {**TYPICAL},
        only=("thread", "thread-w2", "pool", "pool-w2"),
        length=2,
    ),
)
