"""The engine's tables, which are protocol.def's rows, for Python to go through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from Milter._engine import ffi


def rows(table: Any) -> Iterator[Any]:
    """Yields the rows of one of the engine's tables; a NULL symbol ends it.

    Args:
        table: `lib.mlt_steps`, `lib.mlt_commands`, ...
    """
    index = 0
    while table[index].symbol != ffi.NULL:
        yield table[index]
        index += 1
