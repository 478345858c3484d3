"""Order of calls, errors of state, start, stop and restart of module `milter` (API spec 1.1, 1.4).

All state of the module is process-wide, so every case runs in an interpreter of its own.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Callable

import pytest
from compat_support import evaluate, run_python

pytestmark = pytest.mark.usefixtures("waiting")

NONE = ("returned", "None")

#: Defines `started()`: main() in a thread; `handshake(address)`: what a milter answers to an offer;
#: `wait(condition)`: poll until it holds.
PRELUDE = """
import os, socket, sys, threading, time
import milter

def wait(condition):
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("waited in vain")
        time.sleep(0.01)

def started():
    def run():
        try:
            thread.result = ("returned", milter.main())
        except milter.error as error:
            thread.result = ("error", str(error))
    thread = threading.Thread(target=run, daemon=True)
    thread.result = None
    thread.start()
    return thread

def connected(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    end = time.monotonic() + 20
    while True:
        s = socket.socket(family)
        s.settimeout(20)
        try:
            s.connect(address)
            return s
        except OSError:
            s.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.01)

def handshake(address):
    with connected(address) as s:
        s.sendall(bytes.fromhex("0000000D4F00000006000001FF001FFFFF"))
        reply = b""
        while len(reply) < 17:
            piece = s.recv(17 - len(reply))
            if not piece:
                break
            reply += piece
        return reply.hex(" ")

def serves(address):
    return handshake(address) == "00 00 00 0d 4f 00 00 00 06 00 00 01 ff 00 00 04 00"

P = sys.argv[1] if len(sys.argv) > 1 else ""
"""


def _script(body: str, *args: str) -> list[str]:
    """Run the body after PRELUDE; give the lines it prints. It must end by itself."""
    done = run_python(PRELUDE + body + "\nsys.stdout.flush(); os._exit(0)\n", *args)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.splitlines()


def _first(outcome: tuple[str, str]) -> tuple[str, str]:
    """An outcome without the reason that follows the first colon of an error text."""
    return (outcome[0], outcome[1].split(":")[0])


CANNOT_OPEN = ("milter.error", "cannot opensocket")
CANNOT_RUN = ("milter.error", "cannot run main")


@pytest.mark.parametrize("before", ["pass", "milter.register('x')", "milter.setconn('unix:s')"])
def test_opensocket_too_early(before: str) -> None:
    """`opensocket` needs both `setconn` and `register`."""
    (outcome,) = evaluate(f"import milter; {before}", "milter.opensocket(True)")
    assert CANNOT_OPEN == _first(outcome)


def test_main_without_setconn() -> None:
    """`main` needs `setconn`."""
    (outcome,) = evaluate("import milter; milter.register('x')", "milter.main()")
    assert CANNOT_RUN == _first(outcome)


@pytest.mark.ours
@pytest.mark.parametrize("before", ["pass", "milter.setconn('unix:s')"])
def test_main_without_register(before: str) -> None:
    """`main` needs `register`; pymilter crashes the process here."""
    (outcome,) = evaluate(f"import milter; {before}", "milter.main()")
    assert CANNOT_RUN == _first(outcome)


@pytest.mark.parametrize("order", [("setconn", "register"), ("register", "setconn")])
def test_main_opens_the_socket_itself(tmp_path: Path, order: tuple[str, str]) -> None:
    """Without `opensocket`, main listens on its own; setconn and register go in either order."""
    calls = {"setconn": "milter.setconn('unix:' + P)", "register": "milter.register('x')"}
    body = "\n".join(calls[name] for name in order)
    assert ["True", "None"] == _script(
        body + "\nt = started(); print(serves(P)); print(t.result)", str(tmp_path / "s")
    )


@pytest.mark.parametrize("spec", ["unix:{}", "local:{}", "{}", "UNIX:{}"])
def test_unix_specs(tmp_path: Path, spec: str) -> None:
    """`unix:/path`, `local:/path` and a bare path are the same, the keyword in any case."""
    path = tmp_path / "s"
    body = "milter.setconn(sys.argv[2]); milter.register('x'); print(milter.opensocket(False))"
    assert ["None"] == _script(body, str(path), spec.format(path))
    assert stat.S_ISSOCK(path.stat().st_mode)


@pytest.mark.parametrize(
    "spec",
    ["inet:0", "inet:0@127.0.0.1", "inet:0@localhost", "inet6:0@::1", "inet6:0@[::1]", "inet6:0"],
)
def test_inet_specs(spec: str) -> None:
    """The forms with a port, port 0 included, are listened on."""
    assert [NONE] == evaluate(
        f"import milter; milter.setconn({spec!r}); milter.register('x')", "milter.opensocket(True)"
    )


def test_inet_is_served(keep_port: Callable[[str], int]) -> None:
    """A milter on `inet:port@host` answers there."""
    port = keep_port("127.0.0.1")
    body = f"""
milter.setconn("inet:{port}@127.0.0.1"); milter.register("x"); started()
print(serves(("127.0.0.1", {port})))
"""
    assert ["True"] == _script(body)


def test_opensocket_twice(tmp_path: Path) -> None:
    """A second `opensocket` succeeds and leaves the socket that is there."""
    body = """
milter.setconn("unix:" + P); milter.register("x")
print(milter.opensocket(True)); first = os.stat(P)
print(milter.opensocket(True)); second = os.stat(P)
print(first.st_ino == second.st_ino)
started(); print(serves(P))
"""
    assert ["None", "None", "True", "True"] == _script(body, str(tmp_path / "s"))


BAD_SPECS = ["foo:bar", "tcp:1@localhost", "unix:/nonexistent/directory/s", "unix:/" + "x" * 200]


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_bad_spec_at_opensocket(spec: str) -> None:
    """What is wrong with a spec is told by `opensocket`, not by `setconn`."""
    outcomes = evaluate(
        "import milter; milter.register('x')",
        f"milter.setconn({spec!r})",
        "milter.opensocket(True)",
    )
    assert NONE == outcomes[0]
    assert CANNOT_OPEN == _first(outcomes[1])


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_bad_spec_at_main(spec: str) -> None:
    """Without `opensocket` it is told by `main`."""
    (outcome,) = evaluate(
        f"import milter; milter.register('x'); milter.setconn({spec!r})", "milter.main()"
    )
    assert CANNOT_RUN == _first(outcome)


@pytest.mark.ours
@pytest.mark.parametrize("spec", BAD_SPECS)
def test_bad_spec_is_named(spec: str) -> None:
    """After pymilter's text and a colon comes the reason, which names the spec (or its path)."""
    outcomes = evaluate(
        f"import milter; milter.register('x'); milter.setconn({spec!r})",
        "milter.opensocket(True)",
        "milter.main()",
    )
    named = spec.partition(":")[2] if spec.startswith("unix:") else spec
    for outcome in outcomes:
        _text, colon, reason = outcome[1].partition(": ")
        assert colon
        assert named in reason


@pytest.mark.parametrize("rmsock", ["True", "False"])
def test_path_is_a_regular_file(tmp_path: Path, rmsock: str) -> None:
    """A regular file at the path is an error and stays as it is."""
    path = tmp_path / "s"
    path.write_text("precious")
    setup = f"import milter; milter.register('x'); milter.setconn('unix:{path}')"
    (outcome,) = evaluate(setup, f"milter.opensocket({rmsock})")
    assert CANNOT_OPEN == _first(outcome)
    assert "precious" == path.read_text()


@pytest.mark.parametrize("rmsock", ["True", "False"])
def test_path_is_a_directory(tmp_path: Path, rmsock: str) -> None:
    """A directory at the path is an error and stays."""
    setup = f"import milter; milter.register('x'); milter.setconn('unix:{tmp_path}')"
    (outcome,) = evaluate(setup, f"milter.opensocket({rmsock})")
    assert CANNOT_OPEN == _first(outcome)
    assert tmp_path.is_dir()


def _stale(path: Path) -> os.stat_result:
    """Leave a socket at the path on which nobody listens."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    return path.stat()


def test_stale_socket_removed(tmp_path: Path) -> None:
    """`opensocket(True)` replaces a socket that nobody answers on, and the new one serves."""
    path = tmp_path / "s"
    _stale(path)
    body = """
milter.setconn("unix:" + P); milter.register("x")
print(milter.opensocket(True)); started(); print(serves(P))
"""
    assert ["None", "True"] == _script(body, str(path))


def test_stale_socket_without_rmsock(tmp_path: Path) -> None:
    """`opensocket(False)` fails on it, and the socket stays."""
    path = tmp_path / "s"
    before = _stale(path)
    setup = f"import milter; milter.register('x'); milter.setconn('unix:{path}')"
    outcomes = evaluate(setup, "milter.opensocket(False)", "milter.opensocket(0)", "milter.main()")
    assert [CANNOT_OPEN, CANNOT_OPEN, CANNOT_RUN] == [_first(o) for o in outcomes]
    assert before.st_ino == path.stat().st_ino


def test_live_socket_with_rmsock(tmp_path: Path) -> None:
    """`opensocket(True)` takes the path even from somebody who still listens there."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()
        body = """
milter.setconn("unix:" + P); milter.register("x")
print(milter.opensocket(True)); started(); print(serves(P))
"""
        assert ["None", "True"] == _script(body, str(path))


def test_live_socket_without_rmsock(tmp_path: Path) -> None:
    """`opensocket(False)` leaves it to the one who listens there."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()
        setup = f"import milter; milter.register('x'); milter.setconn('unix:{path}')"
        (outcome,) = evaluate(setup, "milter.opensocket(False)")
        assert CANNOT_OPEN == _first(outcome)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_good_start_after_a_failed_one(tmp_path: Path) -> None:
    """After a start that failed, `setconn` with a good path and a new start work."""
    body = """
milter.setconn("unix:/nonexistent/s"); milter.register("x")
for start in (lambda: milter.opensocket(True), milter.main):
    try:
        start()
    except milter.error as error:
        print(str(error).split(":")[0])
milter.setconn("unix:" + P)
print(milter.opensocket(True)); t = started(); print(serves(P), t.result)
"""
    assert ["cannot opensocket", "cannot run main", "None", "True None"] == _script(
        body, str(tmp_path / "s")
    )


def test_second_main_at_once(tmp_path: Path) -> None:
    """`main` while another `main` runs is `milter module in use`; the first goes on."""
    body = """
milter.setconn("unix:" + P); milter.register("x"); first = started()
print(serves(P))
second = started(); second.join(20); print(second.result)
print(serves(P), first.result)
"""
    assert ["True", "('error', 'milter module in use')", "True None"] == _script(
        body, str(tmp_path / "s")
    )


def test_stop_ends_main(tmp_path: Path) -> None:
    """`stop` from another thread returns None and makes `main` return None."""
    body = """
milter.setconn("unix:" + P); milter.register("x"); t = started()
print(serves(P)); print(milter.stop()); t.join(20); print(t.result)
"""
    assert ["True", "None", "('returned', None)"] == _script(body, str(tmp_path / "s"))


def test_stop_before_main_is_not_lost(tmp_path: Path) -> None:
    """A `stop` that comes before `main` ends that `main` at once: a thread that is about to call
    main cannot miss it."""
    body = """
milter.setconn("unix:" + P); milter.register("x")
print(milter.stop()); t = started(); t.join(20); print(t.result)
"""
    assert ["None", "('returned', None)"] == _script(body, str(tmp_path / "s"))


@pytest.mark.ours
def test_stop_between_opensocket_and_main(tmp_path: Path) -> None:
    """The same if the socket was open already (pymilter closes it and then fails to bind)."""
    body = """
milter.setconn("unix:" + P); milter.register("x"); milter.opensocket(True)
print(milter.stop()); t = started(); t.join(20); print(t.result)
"""
    assert ["None", "('returned', None)"] == _script(body, str(tmp_path / "s"))


@pytest.mark.ours
@pytest.mark.parametrize("opensocket", ["pass", "milter.opensocket(True)"])
def test_restart(tmp_path: Path, opensocket: str) -> None:
    """After a stop, `main` serves again, at the same place and with the same settings."""
    body = f"""
milter.setconn("unix:" + P); milter.register("x")
for _ in range(3):
    {opensocket}
    t = started(); print(serves(P)); milter.stop(); t.join(20); print(t.result)
"""
    assert ["True", "('returned', None)"] * 3 == _script(body, str(tmp_path / "s"))


@pytest.mark.ours
def test_restart_elsewhere(tmp_path: Path) -> None:
    """After a stop, `setconn` and `register` can be called anew; the old place is given up."""
    body = """
milter.setconn("unix:" + P + "1"); milter.register("x"); t = started(); print(serves(P + "1"))
milter.stop(); t.join(20)
milter.setconn("unix:" + P + "2"); milter.register("y"); milter.opensocket(True)
t = started(); print(serves(P + "2"), os.path.exists(P + "1"))
"""
    assert ["True", "True False"] == _script(body, str(tmp_path / "s"))


@pytest.mark.ours
def test_runmilter_twice(tmp_path: Path) -> None:
    """`Milter.runmilter` can be called again after it has returned from a stop."""
    body = """
import Milter
Milter.factory = Milter.Base
for _ in range(2):
    t = threading.Thread(target=Milter.runmilter, args=("x", "unix:" + P), daemon=True)
    t.start(); print(handshake(P)[:14]); Milter.stop(); t.join(20); print(t.is_alive())
"""
    assert ["00 00 00 0d 4f", "False"] * 2 == _script(body, str(tmp_path / "s"))


@pytest.mark.ours
def test_socket_file_is_removed_on_stop(tmp_path: Path) -> None:
    """After an orderly stop the socket file is gone, whoever runs the milter (pymilter leaves it
    when run as root)."""
    body = """
milter.setconn("unix:" + P); milter.register("x"); t = started()
print(serves(P), os.path.exists(P)); milter.stop(); t.join(20); print(os.path.exists(P))
"""
    assert ["True True", "False"] == _script(body, str(tmp_path / "s"))


@pytest.mark.ours
def test_program_that_forks_after_opensocket(tmp_path: Path) -> None:
    """A program may open the socket, fork, and end; its child serves on the socket, whose file the
    program has left alone, and removes it when it stops."""
    body = """
import signal
if os.fork() == 0:
    milter.setconn("unix:" + P); milter.register("x"); milter.opensocket(True)
    if os.fork() == 0:
        signal.alarm(40)
        open(P + ".pid", "w").write(str(os.getpid()))
        milter.main()
        os._exit(0)
    sys.exit()
os.wait()
print(os.path.exists(P), serves(P))
os.kill(int(open(P + ".pid").read()), signal.SIGTERM)
wait(lambda: not os.path.exists(P))
"""
    assert ["True True"] == _script(body, str(tmp_path / "s"))


def test_importing_starts_nothing(tmp_path: Path) -> None:
    """Importing opens no descriptor, starts no thread, logs nothing and prints nothing."""
    body = """
import os, sys, threading
before = sorted(os.listdir("/proc/self/fd"))
import milter, Milter
print(before == sorted(os.listdir("/proc/self/fd")), threading.active_count(),
      len(os.listdir("/proc/self/task")))
"""
    done = run_python(body)
    assert (0, "True 1 1\n", "") == (done.returncode, done.stdout, done.stderr)
