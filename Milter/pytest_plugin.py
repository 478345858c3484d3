"""The pytest plugin: fixtures that start a filter and give it mail. Inert until one is used.

- ``milter`` starts filters and stops them after the test; it is a :class:`Milter.testing.Kit`::

      def test_bad_sender(milter):
          client = milter(MyFilter)  # or milter.thread(...), .command([...]), .at("unix:...")
          client.send(sender="bad@example.net").assert_rejected(550)

- ``mail`` makes messages; it is :func:`Milter.testing.mail`, and looks for files beside the test.

Where a test fails that has sent mail, its report gets a section with the dialogue and what the
filter changed, also for a plain ``assert``; messages that are compared are shown as a diff; and of
a traceback through the test kit only the test's and the filter's own lines are shown, unless with
``--full-trace``.

Registered as the pytest plugin ``milter`` on installation; ``-p no:milter`` leaves it out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Callable, Final, Optional

import pytest

if TYPE_CHECKING:
    from Milter import mta, testing

_KITS: Final = "_milter_kits"  # of a test's item; a stash came with pytest 7


@pytest.fixture
def milter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[testing.Kit, None, None]:
    """Starts filters for a test; see Milter.testing.Kit."""
    from Milter import testing

    scratch = tmp_path_factory.mktemp("milter")
    with testing.Kit(_folder(request), scratch) as kit:
        setattr(request.node, _KITS, [*getattr(request.node, _KITS, ()), kit])
        yield kit


@pytest.fixture
def mail(request: pytest.FixtureRequest) -> Callable[..., mta.Message]:
    """Makes messages, from files beside the test or from parts; see Milter.testing.mail."""
    from Milter import testing

    return functools.partial(testing.mail, directory=_folder(request))


def _folder(request: pytest.FixtureRequest) -> str:
    """Where the test's file is."""
    where: Any = request  # `path` is there from pytest 7 on, `fspath` up to 8
    return os.path.dirname(str(where.path if hasattr(where, "path") else where.fspath))


# Not the newer wrapper=True, at which an older pluggy would fail every run of pytest.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Adds to the report of a failed test what the filters did, and leaves our own lines out."""
    with contextlib.ExitStack() as stack:
        if call.excinfo is not None and _through_kit(call.excinfo):
            stack.enter_context(_hidden())
        outcome = yield
    report: pytest.TestReport = outcome.get_result()
    kits: list[testing.Kit] = getattr(item, _KITS, [])
    if kits and report.failed and report.when == "call":
        from Milter import testing

        assert call.excinfo is not None
        # Whose text has the only dialogue that there was, already.
        told = isinstance(call.excinfo.value, testing.Failure) and sum(
            isinstance(each, testing.Report)
            for kit in kits
            for client in kit.clients
            for each in client.trail
        )
        for kit in kits:
            if told != 1:
                _add(report, "milter dialogue", kit.story)
            _add(report, "filter output", kit.output)
            fates = [getattr(one, "fate", "") for client in kit.clients for one in client.filters]
            # By itself: what is still to be stopped is stopped later.
            _add(report, "filter ended", "\n".join(filter(None, fates)))


_OURS: Final = os.path.dirname(os.path.abspath(__file__))
_KIT: Final = frozenset(
    os.path.join(_OURS, name)
    for name in ("testing.py", "_testmail.py", "_testreport.py", "_direct.py", "strategies.py")
)


def _through_kit(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether the test kit has a part in a traceback; any other is nobody's business here."""
    return any(str(entry.path) in _KIT for entry in excinfo.traceback)


@contextlib.contextmanager
def _hidden() -> Generator[None, None, None]:
    """While the block runs, pytest leaves the library's lines out of tracebacks."""
    modules = [
        vars(module)
        for name, module in list(sys.modules.items())
        if name == "milter" or name.partition(".")[0] == "Milter"
    ]
    for names in modules:
        names["__tracebackhide__"] = True
    try:
        yield
    finally:
        for names in modules:
            names.pop("__tracebackhide__", None)


def _add(report: pytest.TestReport, title: str, text: str) -> None:
    if text:
        report.sections.append((title, text))


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> Optional[list[str]]:
    """Shows two messages that are compared as a diff."""
    mta: Any = sys.modules.get("Milter.mta")
    if op != "==" or mta is None:
        return None
    if not (isinstance(left, mta.Message) and isinstance(right, mta.Message)):
        return None
    from Milter.testing import diff

    lines = diff(left, right)
    if config.option.verbose < 2:
        # pytest cuts after a few lines.
        lines = [line for line in lines if line[:1] in "+-"]
    return ["the messages differ, left (-) and right (+):", *lines]
