"""``python -m Milter run``: a class or a program served, and what goes wrong with either."""

from __future__ import annotations

import grp
import json
import os
import pwd
import signal
import socket
import stat
import time
from pathlib import Path

import pytest
from cli_support import process, serving
from mta_support import PATIENCE

from Milter import mta

FILTER = """\
import Milter


class Spam(Milter.Base):
    def eom(self):
        self.addheader("X-Spam", __name__)
        return Milter.CONTINUE

    class Inner(Milter.Base):
        @Milter.noreply
        def connect(self, *client):
            return Milter.CONTINUE


class Other:
    pass


class Wants(Milter.Base):
    def __init__(self, config):
        pass


number = 1

if __name__ == "__main__":
    raise SystemExit("the main program was run")
"""

PROGRAM = """\
import os
import sys

import Milter


class Old(Milter.Base):
    def eom(self):
        self.addheader("X-Old", " ".join([str(os.getuid()), str(os.getppid()), *sys.argv[1:]]))
        return Milter.CONTINUE


def main():
    Milter.factory = Old
    Milter.runmilter("old", sys.argv[1], 60, socket_mode=0o777)
    print("done", sys.argv)


if __name__ == "__main__":
    main()
"""

# The old kind, on the low-level module alone.
LOW_LEVEL = """\
import milter

milter.setconn("unix:/nonexistent/directory/socket")
milter.settimeout(60)
milter.set_eom_callback(lambda ctx: ctx.addheader("X-Low", "yes") or milter.CONTINUE)
milter.register("low")
milter.main()
"""

MESSAGE = mta.Message.from_bytes(b"Subject: hi\n\nhello\n", "a@example.org", ["b@example.com"])


def added(path: Path) -> list[mta.Modification]:
    """What the filter there does to a message."""
    with mta.connect(f"unix:{path}") as session:
        return list(session.send(MESSAGE).modifications)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with filters in it."""
    for name, text in (("spam.py", FILTER), ("old.py", PROGRAM), ("low.py", LOW_LEVEL)):
        (tmp_path / name).write_text(text)
    return tmp_path


# -- a class -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["spam.py:Spam", "./spam.py:Spam", "spam:Spam"])
def test_class(place: Path, target: str) -> None:
    """A class of a file or module is served; the file's main program is not run."""
    with serving(place / "s", "run", target, "--socket", "unix:s", cwd=place) as child:
        assert [mta.AddHeader("X-Spam", "spam")] == added(place / "s")
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=60)
    assert (0, "") == (child.returncode, out)
    lines = err.splitlines()
    assert lines[0].endswith("INFO Milter: Spam: listening at s")
    assert lines[-1].endswith("INFO Milter: Spam: stopped")


def test_nested_class(place: Path) -> None:
    """A class inside of another is named with a dot; what it negotiates is its own."""
    with (
        serving(place / "s", "run", "spam:Spam.Inner", "--socket", "unix:s", cwd=place),
        mta.connect(f"unix:{place}/s") as session,
    ):
        assert 0x1000 == session.negotiate().protocol & 0x1000  # SMFIP_NR_CONN


def test_settings(place: Path) -> None:
    """Permission bits and owner of the socket, the pidfile, and a log that machines read."""
    arguments = ["--socket-mode", "640", "--pidfile", "p", "--log-format", "json"]
    arguments += ["--log-level", "info", "--threads", "2"]
    target = place / "spam.py"
    with serving(
        place / "s", "run", f"{target}:Spam", "--socket", "unix:s", *arguments, cwd=place
    ) as child:
        assert 0o640 == stat.S_IMODE(os.stat(place / "s").st_mode)
        assert f"{child.pid}\n" == (place / "p").read_text()
        assert [mta.AddHeader("X-Spam", "spam")] == added(place / "s")
        again = process("run", "spam:Spam", "--socket", "unix:s", "--pidfile", "p", cwd=place)
        assert 2 == again.returncode
        assert f"python -m Milter run: pidfile p: process {child.pid} runs\n" == again.stderr
        assert f"{child.pid}\n" == (place / "p").read_text()
        child.terminate()
        _, err = child.communicate(timeout=60)
    records = [json.loads(line) for line in err.splitlines()]
    assert "Spam: listening at s" == records[0]["message"]
    assert {"time", "level", "logger", "process", "message"} == set(records[0])
    assert ("info", "Milter", child.pid) == tuple(
        records[0][key] for key in ("level", "logger", "process")
    )
    assert not (place / "p").exists()
    assert not (place / "s").exists()


def test_pidfile_of_a_killed_process(place: Path) -> None:
    """A pidfile that nobody holds any more is no obstacle."""
    (place / "p").write_text("1\n")
    arguments = ["--socket", "unix:s", "--pidfile", "p"]
    with serving(place / "s", "run", "spam:Spam", *arguments, cwd=place) as child:
        assert f"{child.pid}\n" == (place / "p").read_text()


def test_exception_in_a_callback(place: Path) -> None:
    """An exception stands in the log, as JSON on one line with its traceback."""
    text = FILTER.replace("return Milter.CONTINUE", "raise KeyError('odd')", 1)
    (place / "spam.py").write_text(text)
    arguments = ["--socket", "unix:s", "--log-format", "json"]
    with serving(place / "s", "run", "spam:Spam", *arguments, cwd=place) as child:
        with mta.connect(f"unix:{place}/s") as session:
            assert mta.Outcome.TEMPFAILED is session.send(MESSAGE).outcome
        child.terminate()
        _, err = child.communicate(timeout=60)
    (record,) = [record for record in map(json.loads, err.splitlines()) if "exception" in record]
    assert "error" == record["level"]
    assert record["exception"].endswith("KeyError: 'odd'")


# -- a program -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["old.py", "old"])
def test_program(place: Path, target: str) -> None:
    """A program runs as it is, with its own arguments; without settings, with its own settings."""
    with serving(place / "s", "run", target, "--", "unix:s", "--x", "--", cwd=place) as child:
        assert 0o777 == stat.S_IMODE(os.stat(place / "s").st_mode)
        expected = f"{os.getuid()} {os.getpid()} unix:s --x --"
        assert [mta.AddHeader("X-Old", expected)] == added(place / "s")
        child.terminate()
        out, err = child.communicate(timeout=60)
    assert (0, "") == (child.returncode, err)
    assert out.startswith("done [")
    assert out.endswith("'unix:s', '--x', '--']\n")


def test_program_under_other_settings(place: Path) -> None:
    """What is given here replaces what the program says."""
    arguments = ["--socket", "unix:s", "--socket-mode", "600", "--workers", "1"]
    with serving(
        place / "s", "run", "old.py", *arguments, "--", "unix:/none/s", cwd=place
    ) as child:
        assert 0o600 == stat.S_IMODE(os.stat(place / "s").st_mode)
        # It is a worker that answers, a child of the process that was started.
        expected = f"{os.getuid()} {child.pid} unix:/none/s"
        assert [mta.AddHeader("X-Old", expected)] == added(place / "s")


def test_low_level_program(place: Path) -> None:
    """A program on the module milter, without runmilter, is served likewise."""
    arguments = ["--socket", "unix:s", "--socket-mode", "600", "--pidfile", "p"]
    with serving(place / "s", "run", "low.py", *arguments, cwd=place) as child:
        assert 0o600 == stat.S_IMODE(os.stat(place / "s").st_mode)
        assert f"{child.pid}\n" == (place / "p").read_text()
        assert [mta.AddHeader("X-Low", "yes")] == added(place / "s")


def test_timeout_replaces_the_programs(place: Path) -> None:
    """--timeout counts, not what the program gives: a silent connection is closed after it."""
    arguments = ["--socket", "unix:s", "--timeout", "1"]
    with (
        serving(place / "s", "run", "old.py", *arguments, "--", "x", cwd=place),
        socket.socket(socket.AF_UNIX) as silent,
    ):
        silent.settimeout(PATIENCE)  # which is less than the program gives
        silent.connect(str(place / "s"))
        assert b"" == silent.recv(1)


def test_program_that_becomes_a_daemon(place: Path) -> None:
    """The pidfile names the process that serves, and the one that has ended leaves it alone."""
    daemon = (
        "if os.fork():\n    sys.exit(0)\n"
        "for fd in range(3):\n    os.dup2(os.open('/dev/null', 2), fd)"
    )
    (place / "old.py").write_text(PROGRAM.replace("class Old", f"{daemon}\n\n\nclass Old"))
    arguments = ["--socket", "unix:s", "--pidfile", "p", "--", "x"]
    done = process("run", "old.py", *arguments, cwd=place)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    deadline = time.monotonic() + PATIENCE
    while not (place / "p").read_text():
        assert time.monotonic() < deadline, "no process id"
        time.sleep(0.01)
    pid = int((place / "p").read_text())
    try:
        # It serves, so it also handles signals.
        assert isinstance(added(place / "s")[0], mta.AddHeader)
        again = process("run", "old.py", *arguments, cwd=place)
        assert (2, f"python -m Milter run: pidfile p: process {pid} runs\n") == (
            again.returncode,
            again.stderr,
        )
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while (place / "p").exists():
        assert time.monotonic() < deadline, "the pidfile stays"
        time.sleep(0.01)


@pytest.mark.skipif(os.getuid() != 0, reason="not here: only root may become another user")
def test_user(place: Path) -> None:
    """Started by root, it opens the socket, gives it to the user, and serves as him."""
    place.chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    group = grp.getgrgid(nobody.pw_gid)
    arguments = ["--socket", "unix:s", "--user", "nobody", "--pidfile", "p"]
    with serving(place / "s", "run", "old.py", *arguments, "--", "x", cwd=place) as child:
        (change,) = added(place / "s")
        assert isinstance(change, mta.AddHeader)
        assert f"{nobody.pw_uid} " == change.value[: len(str(nobody.pw_uid)) + 1]
        assert (nobody.pw_uid, group.gr_gid) == (
            os.stat(place / "s").st_uid,
            os.stat(place / "s").st_gid,
        )
        with open(f"/proc/{child.pid}/status", encoding="ascii") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        assert [str(nobody.pw_gid)] * 4 == status["Gid"].split()
        assert str(os.getgid()) not in status["Groups"].split()


# -- what goes wrong -----------------------------------------------------------------------------

BROKEN = {
    "syntax.py": "import Milter\ndef f(:\n    pass\n",
    "indent.py": "def f():\npass\n",
    "nul.py": "a = 1\nb = '\0'\n",
    "missing.py": "import Milter\n\nimport nonesuch\n",
    "raises.py": "import os\n\ndef f():\n    os.listdir('/nonexistent')\n\nf()\n",
    "attribute.py": "import Milter\nMilter.nonesuch\n",
    "leaves.py": "import sys\nsys.exit(3)\n",
    "nothing.py": "pass\n",
    "bad.py": "import helper\n",
    "helper.py": "\n1 / 0\n",
}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("spam.py:Nope --socket unix:s", "spam.py: no class Nope; there is Spam, Wants"),
        ("spam:Nope --socket unix:s", "spam: no class Nope; there is Spam, Wants"),
        ("nothing.py:Nope --socket unix:s", "nothing.py: no class Nope"),
        ("spam.py:Other --socket unix:s", "spam.py: class Other is not derived from Milter.Base"),
        ("spam.py:number --socket unix:s", "spam.py: number is no class"),
        (
            "spam.py:Wants --socket unix:s",
            "spam.py: Wants is called without arguments: missing a required argument: 'config'",
        ),
        ("spam.py:Spam.eom --socket unix:s", "spam.py: Spam.eom is called without arguments: "),
        ("spam.py:Spam --socket=", "--socket is needed to serve a class"),
        ("spam.py:Spam --socket unix:s --user \u00b2", "there is no user \u00b2"),
        ("spam.py:Spam --socket unix:s --group \u00b2", "there is no group \u00b2"),
        ("spam.py:Spam", "--socket is needed to serve a class"),
        ("spam.py:Spam --socket x -- y", "arguments are for a program; spam.py:Spam is a class"),
        ("spam.py: --socket x", "'spam.py:' is not FILE:CLASS or MODULE:CLASS"),
        ("none.py:Spam --socket x", "none.py: No such file"),
        ("none.py", "none.py: No such file"),
        ("./none --socket x", "./none: No such file"),
        ("/", "/: Is a directory"),
        ("none", "no module named 'none'"),
        ("none.such:Spam --socket x", "no module named 'none.such'"),
        (".:Spam --socket x", "no module named '.'"),
        ("syntax.py:Spam --socket x", "syntax.py:2: SyntaxError: "),
        ("syntax.py", "syntax.py:2: SyntaxError: "),
        ("syntax", "{place}/syntax.py:2: SyntaxError: "),
        ("indent.py", "indent.py:2: IndentationError: "),
        ("nul.py", "nul.py: "),
        ("missing.py", "missing.py:3: ModuleNotFoundError: No module named 'nonesuch'"),
        (
            "missing.py:A --socket x",
            "missing.py:3: ModuleNotFoundError: No module named 'nonesuch'",
        ),
        ("missing:A --socket x", "{place}/missing.py:3: ModuleNotFoundError: "),
        ("raises.py", "raises.py:4: FileNotFoundError: "),
        ("raises.py:A --socket x", "raises.py:4: FileNotFoundError: "),
        ("attribute.py:A --socket x", "attribute.py:2: AttributeError: "),
        ("leaves.py:A --socket x", "leaves.py:2: SystemExit: 3"),
        ("bad.py:A --socket x", "{place}/helper.py:2: ZeroDivisionError: division by zero"),
        ("nothing.py", "nothing.py ended and has run no filter"),
        (
            "spam.py:Spam --socket unix:/none/s",
            "cannot opensocket: unix:/none/s: Unable to bind to port /none/s: No such file",
        ),
        ("spam.py:Spam --socket x:y", "cannot opensocket: x:y: "),
        ("spam.py:Spam --socket unix:s --user nobodyx", "there is no user nobodyx"),
        ("spam.py:Spam --socket unix:s --user 999999", "there is no user 999999"),
        ("spam.py:Spam --socket unix:s --group nobodyx", "there is no group nobodyx"),
        ("spam.py:Spam --socket unix:s --pidfile /none/p", "pidfile /none/p: No such file"),
        ("old.py -- unix:/none/s", "cannot opensocket: unix:/none/s: "),
    ],
)
def test_errors(place: Path, arguments: str, text: str) -> None:
    """One line that says what is wrong, in the user's code with file and line; status 2."""
    for name, code in BROKEN.items():
        (place / name).write_text(code)
    done = process("run", *arguments.split(), cwd=place)
    assert (2, "") == (done.returncode, done.stdout), done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("python -m Milter run: " + text.format(place=place)), line
    assert 1 == done.stderr.count("\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("x --socket-mode 8", "'8' are no permission bits, such as 660"),
        ("x --socket-mode 1777", "'1777' are no permission bits"),
        ("x --threads -1", "'-1' is no whole number from 0 to 10000"),
        ("x --threads 10001", "'10001' is no whole number from 0 to 10000"),
        ("x --workers one", "'one' is no whole number from 0 to 10000"),
        ("x --timeout 0", "'0' is no whole number from 1 to 2147483647"),
        ("x --timeout 2147483648", "'2147483648' is no whole number from 1 to 2147483647"),
        ("x --log-level loud", "invalid choice: 'loud'"),
        ("", "required: FILE-OR-MODULE[:CLASS]"),
    ],
)
def test_usage(arguments: str, text: str) -> None:
    """Wrong arguments are explained, with status 2."""
    done = process("run", *arguments.split())
    assert (2, "") == (done.returncode, done.stdout)
    assert text in done.stderr


def test_socket_of_a_filter_that_runs(place: Path) -> None:
    """A filter's socket is not taken away while it listens there, but one that it left is."""
    arguments = ("run", "spam.py:Spam", "--socket", "unix:s")
    with serving(place / "s", *arguments, cwd=place) as child:
        done = process(*arguments, cwd=place)
        assert (2, "") == (done.returncode, done.stdout)
        last = done.stderr.splitlines()[-1]
        assert "python -m Milter run: unix:s: another process listens there" == last
        assert [mta.AddHeader("X-Spam", "spam")] == added(place / "s")
        child.kill()
        child.wait()
    assert (place / "s").is_socket()
    with serving(place / "s", *arguments, cwd=place):
        assert [mta.AddHeader("X-Spam", "spam")] == added(place / "s")


def test_socket_of_a_filter_that_is_busy(place: Path) -> None:
    """Nor is one taken away whose owner has not come round to accept connections."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(place / "s"))
        listener.listen(0)
        waiting.connect(str(place / "s"))
        done = process("run", "spam.py:Spam", "--socket", "unix:s", cwd=place)
    assert 2 == done.returncode
    assert done.stderr.endswith(" run: unix:s: another process listens there\n")


def test_exit_of_a_program(place: Path) -> None:
    """A program's own exit status, and its last words, are kept."""
    (place / "leaves.py").write_text("import sys\nprint(__name__, sys.argv)\nsys.exit(7)\n")
    done = process("run", "leaves.py", "--", "a", cwd=place)
    assert (7, "__main__ ['leaves.py', 'a']\n", "") == (done.returncode, done.stdout, done.stderr)
    done = process("run", "spam.py", cwd=place)
    assert (1, "", "the main program was run\n") == (done.returncode, done.stdout, done.stderr)


def test_program_with_a_class_but_no_main(place: Path) -> None:
    """A file with a class that runs nothing: the line says how to serve the class."""
    (place / "spam.py").write_text(FILTER.partition("if __name__")[0])
    done = process("run", "spam.py", cwd=place)
    assert (
        "python -m Milter run: spam.py ended and has run no filter; "
        "to serve its class: spam.py:Spam\n"
    ) == done.stderr


def test_debug_has_the_traceback(place: Path) -> None:
    """With --log-level debug the whole traceback is in the log, before the one line."""
    (place / "raises.py").write_text(BROKEN["raises.py"])
    done = process("run", "raises.py", "--log-level", "debug", cwd=place)
    assert 2 == done.returncode
    assert 'File "raises.py", line 6' in done.stderr
    assert "Traceback (most recent call last)" in done.stderr
