"""Filters under test, as processes of their own.

They run on this project's engine. With the environment variable MILTER_TEST_PYTHON they run on
another interpreter, one in which ``import Milter`` gives pymilter on libmilter: the same cases then
judge the tests themselves.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .mta import DEADLINE, ROOT, answers, end, spawn, tail, wait_until

SCRIPTED = Path(__file__).with_name("scripted_filter.py")


def other_python() -> str | None:
    """Return the interpreter that filters run on if it is not this one."""
    return os.environ.get("MILTER_TEST_PYTHON") or None


def filter_python() -> str:
    """Return the interpreter that filters run on."""
    return other_python() or sys.executable


def filter_environment() -> dict[str, str]:
    """Return the environment in which ``import Milter`` finds what is to be tested."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if other_python() is None:
        env["PYTHONPATH"] = str(ROOT)
    # A warning of the interpreter's about our package is a fault in it.
    env["PYTHONWARNINGS"] = "default"
    return env


@functools.cache
def library() -> str:
    """Say what ``import Milter`` gives in the filter's interpreter; "" if it does not work."""
    code = (
        "import Milter, importlib.util as u, sys; "
        "ours = u.find_spec('Milter._engine') is not None; "
        "print('pymilter-cffi' if ours else 'pymilter', Milter.__version__, "
        "'' if ours else 'on libmilter ' + '.'.join(map(str, Milter.getversion())))"
    )
    done = subprocess.run(
        [filter_python(), "-c", code],
        check=False,
        cwd="/",
        env=filter_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def on_our_engine() -> bool:
    """Tell whether the filters run on this project's engine."""
    return library().startswith("pymilter-cffi")


def listening_address(spec: str) -> str | tuple[str, int]:
    """Return where a filter with this spec listens: a path, or (host, port)."""
    kind, _, rest = spec.partition(":")
    if kind == "unix":
        return rest
    port, _, host = rest.partition("@")
    return (host.strip("[]"), int(port))


class Filter:
    """One filter process: `scripted_filter.py`, or another program with the same arguments."""

    def __init__(self, spec: str, umask: int, directory: Path, name: str) -> None:
        self.spec = spec
        self.umask = umask
        self.script = directory / f"{name}.script"
        self.output = directory / f"{name}.output"
        self.process: subprocess.Popen[bytes] | None = None
        self.load({"log": str(directory / f"{name}.unplanned")})

    def load(self, script: Mapping[str, Any]) -> None:
        """Give the filter its script for connections that begin from now on."""
        new = self.script.with_suffix(".new")
        new.write_text(json.dumps(script))
        new.replace(self.script)

    def start(self, *extras: str, command: Iterable[str | Path] | None = None) -> None:
        """Start the filter and wait until it accepts connections.

        *extras* are keyword arguments of runmilter, as ``drain=5``. *command* replaces the whole
        command line.
        """
        if not library():
            raise AssertionError(f"import Milter does not work in {filter_python()}")
        if command is None:
            command = [filter_python(), SCRIPTED, self.spec, self.script, *extras]
        self.process = process = spawn(
            list(command), self.output, env=filter_environment(), umask=self.umask
        )

        def up() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the filter ended at once:\n{self.diagnosis()}")
            return answers(listening_address(self.spec))

        wait_until(up, f"a filter listens on {self.spec}")

    @property
    def pid(self) -> int:
        """The running filter's process id."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send the running filter a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait until the filter has ended; return its exit status."""
        assert self.process is not None
        status = self.process.wait(seconds)
        self.process = None
        return status

    def stop(self) -> None:
        """End the filter if it runs."""
        if self.process is not None:
            end(self.process)
            self.process = None

    def diagnosis(self) -> str:
        """Return what the filter printed."""
        return tail(self.output)


class Log:
    """The callbacks that a scripted filter logged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[dict[str, Any]]:
        """Return all complete lines so far."""
        try:
            text = self.path.read_text("ascii")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def wait_for(self, event: str, count: int = 1) -> None:
        """Wait until *event* was logged *count* times."""
        wait_until(
            lambda: sum(line["event"] == event for line in self.lines()) >= count,
            f"the filter logs {event!r} ({count})",
        )

    def wait_for_close(self) -> None:
        """Wait until every connection that began has been closed."""

        def closed() -> bool:
            seen: dict[int, bool] = {}
            for line in self.lines():
                seen[line["connection"]] = line["event"] == "close"
            return bool(seen) and all(seen.values())

        wait_until(closed, "every connection to the filter is closed")

    def names(self) -> list[str]:
        """Return the names of the callbacks, in order."""
        return [line["event"] for line in self.lines()]

    def names_by_connection(self) -> list[list[str]]:
        """Return the names of the callbacks of each connection, in the order of their first."""
        names: dict[int, list[str]] = {}
        for line in self.lines():
            names.setdefault(line["connection"], []).append(line["event"])
        return list(names.values())

    def calls(self, *events: str) -> list[tuple[Any, ...]]:
        """Return (name, argument...) of the callbacks named, of all without names."""
        return [
            (line["event"], *line["args"])
            for line in self.lines()
            if not events or line["event"] in events
        ]

    def macros(self, event: str, nth: int = 0) -> dict[str, str]:
        """Return the macros that the nth callback of that name found."""
        found: list[dict[str, str]] = [
            line["macros"] for line in self.lines() if line["event"] == event
        ]
        return found[nth]
