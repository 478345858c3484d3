"""docs/debugging.md, followed from the top: its files, its commands, and what these print."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_support import ENVIRONMENT, ROOT, await_answer, await_socket, process
from mta_support import PATIENCE
from plugin_support import ARGUMENTS

from Milter import mta

PAGE = (ROOT / "docs" / "debugging.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(python|console|eml)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
MARK = "-- the next command --"


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a console block with the output that it shows."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def timeless(text: str) -> str:
    """Output without what is another each time: times, and which of fast answers was slowest."""
    text = re.sub(r"recorded \d{4}-.*Z", "recorded now", text)
    text = re.sub(r"took \d\.\d s", "took 1.5 s", text)
    text = re.sub(r" +\+?\d+\.\d{4}", " 0.0000", text)
    return re.sub(r"#\d+ packet \d+$", "#1 packet 1", text, flags=re.MULTILINE)


def shell(block: str) -> str:
    """A part of one bash session: the commands, each awaited, with a mark between their outputs.

    What is started in the background is awaited until it says that it listens.
    """
    script = ""
    for command, _ in commands(block):
        script += f"echo '{MARK}'\n{command}"
        if command.rstrip().endswith("&"):
            file = command.split()[-2]
            script += (
                f"until grep -qs 'listening at' {file}; do\n"
                "  kill -0 $! || { cat " + file + "; exit 1; }; sleep 0.05\ndone\n"
            )
    return script


def test_tutorial(tmp_path: Path) -> None:
    """Every command of the page, in one shell session, prints what the page shows."""
    program = tmp_path / "bin" / "milterctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m Milter "$@"\n')
    program.chmod(0o755)
    # With job control, as in a terminal; what still runs at the end is ended.
    script = "set -m\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"
    expected: list[tuple[str, str]] = []
    for number, (kind, text) in enumerate(BLOCKS):
        if kind == "console":
            script += shell(text)
            expected += commands(text)
        else:
            name = "lunch.eml" if kind == "eml" else text.split()[1]
            (tmp_path / f"block{number}").write_text(text, "utf-8")
            script += f"cp block{number} {name}\n"
    (tmp_path / "script").write_text(script)
    done = subprocess.run(
        ["bash", "script"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,
        check=False,
    )
    _, *printed = done.stdout.split(f"{MARK}\n")
    assert len(expected) >= 10
    for (command, shown), output in zip(expected, printed):
        # What the shell says of its jobs is its own.
        output = re.sub(r"^(\[\d\].*|script: line.*Terminated.*)\n", "", output, flags=re.M)
        assert timeless(shown) == timeless(output), command
    assert len(expected) == len(printed), done.stdout


def test_the_slow_one_is_found() -> None:
    """In the page's own output the slowest step is the one that the page finds."""
    (slowest,) = set(re.findall(r"^rcpt +3 +(\d\.\d{4}) +(\d\.\d{4})  #2 packet 8$", PAGE, re.M))
    assert 1.5 <= float(slowest[1])
    assert float(slowest[1]) / 3 <= float(slowest[0])


def test_hanging(tmp_path: Path) -> None:
    """SIGUSR1 to a filter in which faulthandler is registered shows the line where it hangs."""
    (code,) = [text for kind, text in BLOCKS if text.startswith("# hanging.py")]
    (tmp_path / "hanging.py").write_text(code)
    (line,) = re.findall(r'^    (File "hanging.py", line \d+ in \w+)$', PAGE, re.MULTILINE)
    run = ["run", "hanging.py:Hanging", "--socket", "unix:hanging.sock", "--pidfile", "pid"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "Milter", *run],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            text=True,
            env=ENVIRONMENT,
        ) as child,
    ):
        try:
            await_answer(tmp_path / "hanging.sock", child)
            spec = f"unix:{tmp_path}/hanging.sock"
            with mta.connect(spec, timeouts=mta.Timeouts.all(PATIENCE)) as session:
                session.negotiate()
                session.timeouts = mta.Timeouts.all(1)
                with pytest.raises(mta.FilterTimeout, match="no answer to mail within 1 s"):
                    session.mail("<a@b>")
            pid = int((tmp_path / "pid").read_text())
            text, deadline = "", time.monotonic() + PATIENCE
            while line not in text and time.monotonic() < deadline:
                # Again and again: on a busy machine it may not have come to that line yet.
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.05)
                text = (tmp_path / "log").read_text().replace(f"{tmp_path}/", "")
        finally:
            child.kill()
    assert line in text


@pytest.mark.slow
def test_recorded_session_as_a_test(tmp_path: Path) -> None:
    """The test of docs/testing.md that plays a recording passes, and fails for another filter."""
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(# (\S+)\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (test,) = [text for text, name in blocks if name == "test_recorded.py"]
    guards = [text for text, name in blocks if name == "guard.py"]
    (tmp_path / "test_recorded.py").write_text(test)
    (tmp_path / "guard.py").write_text(guards[-1])
    (tmp_path / "m.eml").write_text("From: <a@b.example>\nTo: <c@d.example>\nX-Checked: a\n\nx\n")
    specs = ["unix:f", "unix:t"]
    children = []
    try:
        for arguments in (
            ["run", "guard.py:Guard", "--socket", specs[0]],
            ["trace", "--listen", specs[1], "--filter", specs[0], "--record", "session.rec"],
        ):
            child = subprocess.Popen(
                [sys.executable, "-m", "Milter", *arguments],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                env=ENVIRONMENT,
            )
            children.append(child)
            await_socket(tmp_path / ("f" if arguments[0] == "run" else "t"), child)
        assert 0 == process("send", "--socket", specs[1], "m.eml", cwd=tmp_path).returncode
    finally:
        for child in reversed(children):
            child.terminate()
            child.wait(PATIENCE)

    def run() -> str:
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return subprocess.run(
            [sys.executable, "-m", "pytest", *ARGUMENTS, "-q", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        ).stdout

    assert "1 passed" in run()
    (tmp_path / "guard.py").write_text(guards[0])
    assert "delete header" in run()
