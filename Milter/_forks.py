"""Processes that callbacks fork: they never speak for the one that serves.

Knows which servers this process serves, and that a forked child is only a copy of theirs. Which
process is a worker is _workers' matter, what signals do in a child _signals'.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
import weakref
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from Milter._server import Server

_serving: weakref.WeakSet[Server] = weakref.WeakSet()
_watching = False


def serving(server: Server) -> None:
    """Takes note that this process serves: its children are to know that they do not."""
    global _watching
    if not _watching:
        _watching = True
        os.register_at_fork(after_in_child=_after_fork)
    server.copied = False
    _serving.add(server)


def _after_fork() -> None:
    for server in _serving:
        server.copied = True
    _serving.clear()


def flush() -> None:
    """Writes out what standard output and standard error still hold."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            pass  # a daemon has none


def end_process(status: int) -> NoReturn:
    """Ends this forked process as the interpreter would, but for its threads."""
    try:
        atexit._run_exitfuncs()
        logging.shutdown()
        flush()
    except BaseException:
        pass  # nobody is left to tell
    finally:
        os._exit(status)


def end_copy(problem: BaseException | None) -> NoReturn:
    """Ends a child that has come back from the callback which forked it.

    The connection is the parent's, and so is the verdict: an answer from here would be a second
    one, or the wrong one. `sys.exit()` does what it says.

    Args:
        problem: what the callback raised there; None if it returned.
    """
    status = 0
    if isinstance(problem, SystemExit):
        status = 1 if problem.code is not None else 0
        if isinstance(problem.code, int):
            status = problem.code & 0xFF
        elif problem.code is not None:
            _say(f"{problem.code}\n")
    elif problem is not None:
        status = 1
        kind = type(problem)
        _say("".join(traceback.format_exception(kind, problem, problem.__traceback__)))
    end_process(status)


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
    except (AttributeError, ValueError, OSError):
        pass
