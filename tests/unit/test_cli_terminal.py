"""The command line on a terminal, without one, and interrupted: live lines, Ctrl-C, streams."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from cli_support import COMMAND, ENVIRONMENT
from mta_support import PATIENCE, C, Simple, options

import Milter
from Milter.testing import thread

WITHOUT_RICH = [
    *(sys.executable, "-c"),
    "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None\n"
    "from Milter._cli import main; sys.exit(main(sys.argv[1:]))",
]


def on_terminal(
    command: list[str],
    ready: str = "",
    key: bytes = b"",
    columns: int = 80,
    environment: dict[str, str] = ENVIRONMENT,
) -> tuple[int, str]:
    """Runs a command on a terminal of its own, and presses a key.

    Args:
        command: the command.
        ready: a regular expression: the key is pressed when that is on the terminal.
        key: what the key sends.
        columns: of the terminal.
        environment: of the command.

    Returns:
        Its exit status, and all that the terminal got.
    """
    terminal = {name: value for name, value in environment.items() if name != "NO_COLOR"}
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # setsid(1), since a fork in a process with threads, as pty.fork() is, is frowned upon.
    child = subprocess.Popen(
        ["setsid", "--ctty", *command],
        env={**terminal, "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    deadline = time.monotonic() + PATIENCE
    seen = b""
    try:
        while True:
            left = deadline - time.monotonic()
            assert left > 0, seen
            if not select.select([master], [], [], left)[0]:
                continue
            try:
                data = os.read(master, 65536)
            except OSError:  # so ends a terminal on Linux
                break
            if not data:
                break
            seen += data
            if key and re.search(ready.encode(), seen):
                os.write(master, key)
                key = b""
    except BaseException:
        child.kill()
        raise
    finally:
        os.close(master)
        child.wait()
    return child.returncode, seen.decode()


def endless(path: Path) -> list[str]:
    """The arguments of a bench that goes on until it is interrupted."""
    return ["bench", "--socket", f"unix:{path}", "--seconds", "1000", "--connections", "1"]


#: The live line of a bench that has sent something.
SOME = r" [1-9]\d* messages?, \d+ a second"

# -- bench's live line, and Ctrl-C ---------------------------------------------------------------


@pytest.mark.parametrize("rich", [True, False])
def test_bench_is_interrupted(tmp_path: Path, rich: bool) -> None:
    """A line shows how far it is; Ctrl-C ends it with the figures so far, in one piece."""
    if rich:
        pytest.importorskip("rich")
    command = COMMAND if rich else WITHOUT_RICH
    with Simple(tmp_path / "s", {"O": options(), "E": C}):
        status, seen = on_terminal([*command, *endless(tmp_path / "s")], SOME, b"\x03")
    assert 2 == status
    assert "Traceback" not in seen
    assert re.search(r"\d+ s: \d+ messages?, \d+ a second", seen)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).replace("\r", "\n").split("\n")
    figures = [line.strip() for line in lines if line.strip()][-6:]
    done = int(figures[0].split()[0])
    assert done > 0
    assert re.fullmatch(rf"{done} messages? in .* messages per second", figures[0])
    assert re.match(r"latency: p50 ", figures[1])
    assert f"outcomes: {done} accepted" == figures[2]
    assert figures[-1].endswith(" bench: interrupted")
    assert 1 == seen.count("messages per second")


def test_bench_of_a_filter_that_hangs(tmp_path: Path) -> None:
    """Ctrl-C ends it also while nothing is answered."""
    with Simple(tmp_path / "s", {"O": options(), "M": b""}):
        command = [*WITHOUT_RICH, *endless(tmp_path / "s")]
        status, seen = on_terminal(command, "0 messages, ", b"\x03")
    assert 2 == status
    assert "0 messages in " in seen
    assert "bench: interrupted" in seen
    assert "Traceback" not in seen


def test_narrow_terminal(tmp_path: Path) -> None:
    """The live line does not run over the edge, where it would leave a line for each look."""
    with Simple(tmp_path / "s", {"O": options(), "E": C}):
        command = [*WITHOUT_RICH, *endless(tmp_path / "s")]
        _, seen = on_terminal(command, r"\d+ s: \d+ message", b"\x03", columns=20)
    live = seen[: seen.index("^C")].split("\r")
    assert [] == [line for line in live if len(line) > 19]
    assert [line for line in live if re.match(r"\d+ s: \d+ message", line)]


@pytest.mark.parametrize("command", ["bench", "check"])
@pytest.mark.parametrize("how", ["--color=never", "NO_COLOR"])
def test_no_colours(command: str, how: str) -> None:
    """What is shown while it goes on has no colours, either, where none are wanted."""
    pytest.importorskip("rich")
    arguments = ["--color=never"] if how == "--color=never" else []
    arguments += ["--messages=3"] if command == "bench" else ["--rounds=3"]
    # One that bears odd conversations, so that no timeout has to end one.
    with thread(Milter.Base) as client:
        words = [*COMMAND, command, "--socket", client.spec, *arguments]
        if how == "NO_COLOR":
            # Not through on_terminal()'s own environment, from which it is taken.
            words = ["env", "NO_COLOR=1", *words]
        _, seen = on_terminal(words)
    assert "\x1b[?25" in seen  # there was something live: the cursor was hidden
    assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", seen), seen


def test_check_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C among the odd conversations: one line, and status 2."""
    with Simple(tmp_path / "s", {"O": options(), "M": b""}):
        command = [*COMMAND, "check", "--socket", f"unix:{tmp_path}/s", "--color=never"]
        status, seen = on_terminal(command, "which macros it gets.", b"\x03")
    assert 2 == status
    assert seen.rstrip().endswith(" check: interrupted")
    assert "Traceback" not in seen


def test_interrupted_while_it_loads(tmp_path: Path) -> None:
    """Ctrl-C before the command line is there to see to it gives one line, too."""
    code = (
        "import builtins, runpy\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *arguments, **keywords):\n"
        "    if name == 'Milter._cli':\n"
        "        raise KeyboardInterrupt\n"
        "    return load(name, *arguments, **keywords)\n"
        "builtins.__import__ = interrupted\n"
        "runpy.run_module('Milter.__main__', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        check=False,
    )
    assert (2, "", "milterctl: interrupted\n") == (done.returncode, done.stdout, done.stderr)


# -- streams -------------------------------------------------------------------------------------


def shell(line: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell, in which ``$m`` is the command."""
    environment = {**ENVIRONMENT, "m": " ".join(COMMAND)}
    return subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        # Closed streams are as good as /dev/null.
        ("$m check --rounds 0 --socket unix:s >&-", 0, "", ""),
        ("$m bench --messages 1 --socket unix:s >&-", 0, "", ""),
        ("$m send --from a@b --to c@d --socket unix:s message >&-", 0, "", ""),
        ("$m check --quiet --socket unix:none 2>&-", 2, "", ""),
        ("$m send --socket unix:s - <&-", 2, "", "send: standard input is closed\n"),
        # A full disk.
        (
            "$m check --rounds 0 --socket unix:s >/dev/full",
            2,
            "",
            "check: No space left on device\n",
        ),
        ("$m check --quiet --socket unix:none 2>/dev/full", 2, "", ""),
        # A reader that has seen enough, and has gone: nothing can be written any more.
        (
            "trap '' PIPE; { while echo; do :; done 2>&-; $m check --rounds 0 --socket unix:s; "
            "echo $? >&2; } | head -n 0",
            0,
            "",
            "2\n",
        ),
    ],
)
def test_streams(tmp_path: Path, line: str, status: int, out: str, err: str) -> None:
    """Streams that are closed, full or not read any more cost the exit status, not a traceback."""
    (tmp_path / "message").write_bytes(b"Subject: hi\n\nhello\n")
    with Simple(tmp_path / "s", {"O": options(), "E": C}):
        done = shell(line, tmp_path)
    assert (status, out) == (done.returncode, done.stdout)
    assert err == done.stderr.replace("python -m Milter ", "")
