"""Fixtures: one private mail server of each kind per session, filters beside it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from . import filters
from .filters import Filter, Log
from .mta import Endpoint, Mta, Unavailable, layout, private_area
from .mta_postfix import Postfix
from .mta_sendmail import Sendmail
from .smtp import STANDARD, Say, Transcript, play, render

MTAS: dict[str, type[Mta]] = {"postfix": Postfix, "sendmail": Sendmail}
_tokens = itertools.count(1)
#: The mail servers that run.
_servers: list[Mta] = []


def missing(what: str) -> NoReturn:
    """Skip the test and name what it lacks; in CI, where nothing may be missing, fail it."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"CI, and missing: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


class Place:
    """One endpoint of a running mail server, and the filters behind it."""

    def __init__(self, mta: Mta, endpoint: Endpoint) -> None:
        self.mta = mta
        self.endpoint = endpoint
        self.address = endpoint.address
        self.filters = [
            Filter(spec, mta.umask, mta.directory, f"{mta.name}-{endpoint.name}-{number}")
            for number, spec in enumerate(endpoint.filters)
        ]
        self.token = ""
        self.waiting = ""  # the way of waiting in which the filters were started

    @property
    def filter(self) -> Filter:
        """The endpoint's only filter."""
        (only,) = self.filters
        return only

    def begin(self) -> None:
        """Begin a test: a token of its own, nothing stored."""
        self.token = f"case-{next(_tokens)}"
        self.mta.clear()

    def load(self, script: dict[str, Any], number: int = 0) -> Log:
        """Give a filter its script; return the log that it will write."""
        path = self.mta.directory / f"{self.token}-{number}.log"
        path.unlink(missing_ok=True)
        self.filters[number].load({**script, "log": str(path)})
        return Log(path)

    def play(self, steps: tuple[Say, ...] = STANDARD, content: bytes | None = None) -> Transcript:
        """Play a session; without *content* it sends the ordinary message."""
        message = render(self.token) if content is None else content
        return play(self.address, steps, message)

    def diagnosis(self) -> str:
        """Return what the filters and the mail server have to say."""
        parts = [f"-- filter {each.spec}\n{each.diagnosis()}" for each in self.filters]
        parts.append(f"-- {self.mta.name}\n{self.mta.diagnosis()}")
        for path in sorted(self.mta.directory.glob(f"{self.token}-*.log")):
            parts.append(f"-- callbacks\n{path.read_text('ascii')}")
        return "\n".join(parts)


@contextlib.contextmanager
def _sigterm_cleans_up() -> Iterator[None]:
    """Let SIGTERM end the session as Ctrl-C does, with everything cleaned up."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _running(kind: type[Mta]) -> Iterator[Mta]:
    """Run one mail server in a private directory; clean up whatever happens."""
    with _sigterm_cleans_up(), private_area() as directory, contextlib.ExitStack() as ports:
        try:
            mta = kind(directory, layout(directory, ports))
        except Unavailable as error:
            missing(str(error))
        try:
            _servers.append(mta)
            mta.start()
            yield mta
        finally:
            mta.stop()
            _servers.remove(mta)


@pytest.fixture(scope="session")
def postfix() -> Iterator[Mta]:
    """A running private Postfix."""
    yield from _running(Postfix)


@pytest.fixture(scope="session")
def sendmail() -> Iterator[Mta]:
    """A running private Sendmail."""
    yield from _running(Sendmail)


@pytest.fixture(scope="session")
def _places() -> Iterator[dict[tuple[str, str], Place]]:
    """The endpoints whose filters run for the whole session, started when first asked for."""
    places: dict[tuple[str, str], Place] = {}
    yield places
    for place in places.values():
        for each in place.filters:
            each.stop()


def place_for(
    request: pytest.FixtureRequest,
    places: dict[tuple[str, str], Place],
    mta_name: str,
    endpoint_name: str,
    waiting: str,
) -> Place:
    """Return the place, with its filters running in that way of waiting."""
    mta: Mta = request.getfixturevalue(mta_name)
    if endpoint_name not in mta.endpoints:
        pytest.skip("not here: no IPv6 on the loopback interface")
    place = places.get((mta_name, endpoint_name))
    if place is None:
        place = Place(mta, mta.endpoints[endpoint_name])
        places[mta_name, endpoint_name] = place
    if place.waiting != waiting:
        for each in place.filters:
            each.stop()
        place.waiting = waiting
    for each in place.filters:
        if each.process is None:
            each.start()
    place.begin()
    return place


@pytest.fixture(scope="module")
def both(waiting: str) -> str:
    """The way of waiting of the filters that are started: each of the two."""
    if waiting != "thread" and filters.other_python() is not None:
        pytest.skip("not here: pymilter has one way of waiting")
    return waiting


@pytest.fixture
def place(
    request: pytest.FixtureRequest, _places: dict[tuple[str, str], Place], both: str
) -> Place:
    """The endpoint that the test is parametrized with, (mta, endpoint); its filters run."""
    mta_name, endpoint_name = request.param
    return place_for(request, _places, mta_name, endpoint_name, both)


@pytest.fixture
def solo(request: pytest.FixtureRequest, both: str) -> Iterator[Place]:
    """An endpoint, (mta, endpoint), whose filter the test starts and stops itself."""
    mta_name, endpoint_name = request.param
    mta: Mta = request.getfixturevalue(mta_name)
    place = Place(mta, mta.endpoints[endpoint_name])
    place.begin()
    yield place
    for each in place.filters:
        each.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Put what the filter and the mail server said into the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        funcargs = getattr(item, "funcargs", {})
        for name in ("place", "solo"):
            if name in funcargs:
                report.sections.append(("filter and mail server", funcargs[name].diagnosis()))
                return report
        for mta in _servers:
            if item.get_closest_marker(mta.name) is not None:
                report.sections.append((mta.name, mta.diagnosis()))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what the filters ran on."""
    terminalreporter.write_line(f"integration filters ran on: {filters.library() or 'nothing'}")
