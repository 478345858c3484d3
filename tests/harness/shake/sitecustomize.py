"""As delays.c, for what Python does without a system call: records of the log, and threads.

Every interpreter imports this at its start, with its directory in PYTHONPATH (scripts/test-shaken).
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from typing import Any, Callable

_ONE_IN = int(os.environ.get("DELAYS_ONE_IN", "20"))

# These are rarer than system calls by far.
CHANCE = 5 / _ONE_IN if _ONE_IN else 0.0
MOST = int(os.environ.get("DELAYS_US", "20000")) / 1e6


def _maybe_wait() -> None:
    if random.random() < CHANCE:
        time.sleep(random.random() * MOST)


def _shaken(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def shaken(*args: Any, **keywords: Any) -> Any:
        _maybe_wait()
        try:
            return function(*args, **keywords)
        finally:
            _maybe_wait()

    return shaken


logging.Logger.handle = _shaken(logging.Logger.handle)  # type: ignore[method-assign]
threading.Thread.run = _shaken(threading.Thread.run)  # type: ignore[method-assign]
