"""OpenDKIM's miltertest plays the mail server: scripts in Lua, against pymilter and against us.

pymilter on libmilter is there to show that a script is right; what counts is that ours passes it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from milter_modes import chosen
from scenarios import CLASSES, ONE_OF_EACH
from sidebyside import HERE, PATIENCE, ROOT, Side

pytestmark = pytest.mark.oracle


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let each side pass, ours in each way of waiting."""
    if "side" in metafunc.fixturenames:
        ours = [f"ours-{waiting}" for waiting in chosen(metafunc.config)]
        metafunc.parametrize("side", ["theirs", *ours], indirect=True)


@pytest.fixture
def side(request: pytest.FixtureRequest, ours_in: Callable[[str], Side]) -> Side:
    """Return one of the sides."""
    if request.param == "theirs":
        result: Side = request.getfixturevalue("theirs")
        return result
    return ours_in(request.param.removeprefix("ours-"))


def run_script(script: str, socket: str, **variables: str) -> None:
    """Run a Lua script; fail with what it printed unless it came to its end."""
    program = shutil.which("miltertest")
    if program is None:
        pytest.skip("no miltertest of OpenDKIM: apt-get install miltertest")
    variables.update(socket=socket, lib=str(HERE / "common.lua"))
    done = subprocess.run(
        [program, *(f"-D{name}={value}" for name, value in variables.items()),
         "-s", str(HERE / f"{script}.lua")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=10 * PATIENCE, check=False,
    )  # fmt: skip
    output = done.stdout.decode("utf-8", "replace")
    assert 0 == done.returncode, output
    assert ["done"] == output.splitlines(), output


def prepare(side: Side, behaviour: dict[str, Any]) -> str:
    """Have the side's recorder behave so; return its socket's specification."""
    side.start("base")
    side.path("base", "behaviour").write_text(json.dumps(behaviour), encoding="utf-8")
    side.path("base", "out").write_text("", encoding="utf-8")
    return f"unix:{side.path('base', 'sock')}"


def test_modifications(side: Side) -> None:
    """Every kind of modification arrives, for each message of a connection."""
    run_script("modifications", prepare(side, {"calls": {"eom": ONE_OF_EACH}}))


STEPS = ["hello", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"]


@pytest.mark.parametrize("step", ["connect", *STEPS])
@pytest.mark.parametrize(("verdict", "reply"), [(1, "r"), (4, "t"), (3, "a"), (2, "d"), (0, "c")])
def test_verdict(side: Side, step: str, verdict: int, reply: str) -> None:
    """Every verdict at every step arrives as what it is."""
    behaviour = {"returns": {step: verdict}}
    if step == "connect":
        # The script connects twice.
        behaviour = {"returns": {step: [verdict, 0]}}
    run_script("verdict", prepare(side, behaviour), step=step, reply=reply)


@pytest.mark.parametrize("step", STEPS)
def test_reply_text(side: Side, step: str) -> None:
    """A reply with a text arrives as such at every step."""
    behaviour = {
        "returns": {step: 1},
        "calls": {step: [["setreply", "550", "5.7.1", "go away"]]},
    }
    more = {"text": "go away"} if step == "eom" else {}
    run_script("verdict", prepare(side, behaviour), step=step, reply="y", **more)


def test_noreply(side: Side) -> None:
    """Steps that are not answered are not waited for, and the last one is answered."""
    run_script("noreply", prepare(side, CLASSES["noreply-everything"]))


def test_endings(side: Side) -> None:
    """However a message ends, the next one begins, and a connection that is cut harms no other."""
    run_script("endings", prepare(side, {}))


@pytest.fixture
def sample(side: Side, tmp_path: Path) -> Iterator[Any]:
    """Run sample.py under a side, from a directory without any Milter beside it."""
    shutil.copy(ROOT / "sample.py", tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    socket = side.directory / "sample.sock"
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [str(side.python), "sample.py", "--socket", f"unix:{socket}"],
            cwd=tmp_path, env={**side.environment, "TMPDIR": str(kept)},
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    yield f"unix:{socket}", log, kept
    process.terminate()
    assert 0 == process.wait(timeout=PATIENCE)
    # libmilter leaves it behind when it runs as root.
    socket.unlink(missing_ok=True)


def test_sample(sample: tuple[str, Path, Path]) -> None:
    """sample.py runs the same on either library, and logs each step with its connection."""
    socket, log, kept_by_sample = sample
    run_script("sample", socket)
    lines = [re.sub(r"^\S+ \S+ ", "", line) for line in log.read_text("utf-8").splitlines()]
    assert f"listening at {socket}" == lines[0]
    # In the pool the library has a line of its own. miltertest's QUIT may not have been looked at
    # yet, so not the last line.
    said = [line for line in lines if line.startswith("[")]
    assert [
        "[1] connect from 'client.example.org' at ('192.0.2.1', 12345)",
        "[1] helo 'client.example.org'",
        "[1] mail from '<alice@example.org>' 'SIZE=100'",
        "[1] authenticated as 'alice' by None",
        "[1] rcpt to '<bob@example.com>'",
        "[1] header Subject: b'ADV: buy'",
        "[1] refused: No advertising here",
        "[1] mail from '<alice@example.org>' 'SIZE=100'",
        "[1] authenticated as 'alice' by None",
        "[1] rcpt to '<bob@example.com>'",
        "[1] rcpt to '<carol@example.net>'",
        "[1] header Subject: b'Lunch'",
        "[1] end of message, 12 bytes, queue id 4ABC",
        "[1] defanged; the original is in X.defang",
    ] == [re.sub(r"/\S+\.defang", "X.defang", line) for line in said[:14]]
    (kept,) = kept_by_sample.iterdir()
    assert b"12345\r\n678\r\n" in kept.read_bytes()


def test_the_scripts_can_fail(ours: Side) -> None:
    """A filter that does something else fails the script: it does look."""
    with pytest.raises(AssertionError, match=r"^add"):
        run_script("modifications", prepare(ours, {}))
