"""What the compatibility tests share: fresh interpreters, outcomes of calls, waiting.

Nothing here knows which implementation stands behind the import names `milter` and `Milter`, so
that the tests that are not marked `ours` also run on pymilter itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any, Callable

DEADLINE = 30.0
"""Seconds after which a wait has failed; generous, since it only bounds a test that hangs."""

CALLBACK_SETTERS = [
    "set_connect_callback",
    "set_helo_callback",
    "set_envfrom_callback",
    "set_envrcpt_callback",
    "set_header_callback",
    "set_eoh_callback",
    "set_body_callback",
    "set_eom_callback",
    "set_abort_callback",
    "set_close_callback",
]

_EVALUATE = """
import json, sys
setup, expressions = json.load(sys.stdin)
scope = {}
exec(setup, scope)
for expression in expressions:
    try:
        result = ["returned", repr(eval(expression, scope))]
    except Exception as error:
        result = [type(error).__module__ + "." + type(error).__name__, str(error)]
    print(json.dumps(result), flush=True)
import os
os._exit(0)
"""


def environment(**extra: str) -> dict[str, str]:
    """Return an environment in which a new interpreter imports what this one does."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    env.update(extra)
    return env


def run_python(
    code: str, *args: str, timeout: float = 300.0, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with args as its `sys.argv[1:]`; capture what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**extra),
        check=False,
    )


def evaluate(setup: str, *expressions: str, timeout: float = 300.0) -> list[tuple[str, str]]:
    """Evaluate expressions one after the other in one fresh interpreter after the setup code.

    Each gives `("returned", repr of the value)` or `("module.ExceptionType", its text)`.
    """
    done = subprocess.run(
        [sys.executable, "-c", _EVALUATE],
        input=json.dumps([setup, list(expressions)]),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
    )
    results = [tuple(json.loads(line)) for line in done.stdout.splitlines() if line[:2] == '["']
    assert len(expressions) == len(results), (results, done.returncode, done.stderr)
    return results  # type: ignore[return-value]


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Poll until the condition is true and return its value; fail after DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come about within {DEADLINE:g} s"
        time.sleep(0.01)
