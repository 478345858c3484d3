"""pytest plugin: run a test in both ways of waiting, a thread per connection and the pool.

Loaded for every run by ``-p milter_modes`` in pyproject.toml.

- A test that uses the fixture ``waiting`` runs once in each, with the mode in its id. The mode is
  the environment variable MILTER_THREADS, so it holds for servers in this process and for filters
  in processes of their own.
- ``@pytest.mark.one_mode(reason)``: it runs once, with a thread per connection, for that reason.
- ``--modes=thread`` or ``--modes=pool``: only in that one. Tests of one mode count as ``thread``.

All tests of a file run in one mode, then in the other: what is kept for the file starts twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

VARIABLE = "MILTER_THREADS"

#: Mode -> the variable's value. No test blocks as many callbacks at once as there are threads.
MODES = {"thread": "0", "pool": "32"}


def pytest_addoption(parser: Any) -> None:
    """Add --modes."""
    parser.addoption(
        "--modes",
        default=",".join(MODES),
        help="ways of waiting to test, of thread and pool; default: both",
    )


def pytest_configure(config: Any) -> None:
    """Refuse modes that are none."""
    unknown = set(chosen(config)) - set(MODES)
    if unknown:
        raise pytest.UsageError(f"--modes: no such mode: {', '.join(sorted(unknown))}")


def chosen(config: Any) -> list[str]:
    """Return the modes of this run."""
    return str(config.getoption("--modes")).split(",")


def pytest_generate_tests(metafunc: Any) -> None:
    """Run what uses `waiting` in each, unless it is for one mode only."""
    if "waiting" not in metafunc.fixturenames:
        return
    if metafunc.definition.get_closest_marker("one_mode") is None:
        metafunc.parametrize("waiting", chosen(metafunc.config), indirect=True, scope="module")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Take out the tests of one mode where that one was not asked for."""
    if "thread" in chosen(config):
        return
    out = [item for item in items if item.get_closest_marker("one_mode") is not None]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Any:
    """Keep the mode of a file's other tests from a test that has none."""
    before = os.environ.get(VARIABLE)
    foreign = before is not None and "waiting" not in getattr(item, "fixturenames", ())
    if foreign:
        del os.environ[VARIABLE]
    try:
        return (yield)
    finally:
        if foreign:
            os.environ[VARIABLE] = str(before)


@pytest.fixture(scope="module")
def waiting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The way of waiting, "thread" or "pool": how servers and filters run while it is active."""
    name = getattr(request, "param", "thread")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, MODES[name])
        yield name
