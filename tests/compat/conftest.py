"""The fixture `live`: module `milter`, serving."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from compat_live import Live

_kept: list[Live] = []


@pytest.fixture(scope="module")
def _serving(waiting: str) -> Iterator[Live]:
    """The server, for the tests of one file in one mode."""
    from compat_live import Live

    if os.environ.get("PYMILTER_ORACLE"):
        if not _kept:
            _kept.append(Live())
        yield _kept[0]
        return
    server = Live()
    yield server
    server.stop()


@pytest.fixture
def live(_serving: Live) -> Iterator[Live]:
    """The server without callbacks; after the test its connections are ended, and it is reset."""
    import Milter

    factory, noreply = Milter.factory, Milter.NOREPLY
    _serving.reset()
    yield _serving
    try:
        _serving.finish()
    finally:
        _serving.reset()
        Milter.factory, Milter.NOREPLY = factory, noreply
