"""``milterctl trace`` between a real mail server and a filter; what it recorded, played again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from Milter import mta
from Milter._trace import FILTER, MTA, Record

from .cases import eom
from .conftest import Place, missing
from .filters import Filter, filter_python, on_our_engine
from .mta import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.one_mode("what is tested stands in between")]


def places(*endpoints: tuple[str, str]) -> pytest.MarkDecorator:
    """Parametrize a test with endpoints of mail servers."""
    return pytest.mark.parametrize(
        "solo",
        [
            pytest.param(each, id="-".join(each), marks=getattr(pytest.mark, each[0]))
            for each in endpoints
        ],
        indirect=True,
    )


@pytest.fixture(autouse=True)
def _ours() -> None:
    """The command is this project's."""
    if not on_our_engine():
        pytest.skip("not here: milterctl is tested with the library that it comes with")


def packets(records: tuple[Record, ...]) -> list[tuple[str, bytes]]:
    """The packets of a connection but for macros: who sent it, and its letter."""
    return [
        (record.sender, record.data[:1])
        for record in records
        if record.kind == "packet" and record.data[:1] != b"D"
    ]


def traced(solo: Place, behind: str, path: Path) -> None:
    """Put a trace in the place of the mail server's filter, in front of the one behind."""
    solo.filter.start(
        command=[
            *(filter_python(), "-m", "Milter", "trace"),
            *("--listen", solo.filter.spec, "--filter", behind, "--record", path),
        ]
    )


def connections(path: Path) -> list[mta.RecordedConnection]:
    """The connections on which something was said, once all of them are over."""
    found: list[mta.RecordedConnection] = []

    def over() -> bool:
        found[:] = [each for each in mta.Recording.read(path).connections if each.packets]
        return bool(found) and all(
            {(each.kind, each.sender) for each in one.records} >= {("end", MTA), ("end", FILTER)}
            for one in found
        )

    wait_until(over, "the connections are over")
    return found


@places(("postfix", "solo-unix"), ("sendmail", "solo-inet"))
def test_between(solo: Place, tmp_path: Path) -> None:
    """Mail arrives as it does without; what was said is all there, legal, and can be replayed."""
    behind = Filter(f"unix:{tmp_path / 'f'}", 0, tmp_path, "behind")
    behind.load(
        {
            "log": str(tmp_path / "log"),
            "rules": [
                {"on": "envrcpt", "nth": 2, "do": [["setreply", "550", "5.7.1", "not them"]]}
                | {"return": "REJECT"},
                eom(["addheader", "X-Added", "v"]),
            ],
        }
    )
    path = tmp_path / "s.rec"
    try:
        behind.start()
        traced(solo, behind.spec, path)
        transcript = solo.play()
        assert transcript.replies["content"].startswith("250"), transcript.replies
        assert transcript.replies["rcpt2"].startswith("550 5.7.1"), transcript.replies
        stored = solo.mta.stored(transcript.replies["content"])
        assert stored is not None
        assert ("X-Added", "v") in [(name, value.strip()) for name, value in stored.headers]
        (connection,) = connections(path)
        said = packets(connection.records)
        letters = b"".join(letter for sender, letter in said if sender == MTA)
        assert letters.startswith(b"OCHMRRTL")
        assert letters.rstrip(b"AQ").endswith(b"LNBE")
        answers = b"".join(letter for sender, letter in said if sender == FILTER)
        assert answers.startswith(b"Occccyc")
        assert answers.endswith(b"hc")
        assert [] == mta.Recording.read(path).play(behind.spec)
        done = subprocess.run(
            [filter_python(), "-m", "Milter", "trace", path],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (0, "") == (done.returncode, done.stderr)
        assert ", 0 not legal\n" in done.stdout
    finally:
        behind.stop()
        solo.filter.stop()


@places(("postfix", "solo-inet"))
def test_opendkim(solo: Place, tmp_path: Path) -> None:
    """A foreign filter: its signature is on the wire and on the mail; only its value changes."""
    programs = [
        shutil.which(name, path="/usr/sbin:/usr/bin:/bin") for name in ("opendkim", "openssl")
    ]
    if None in programs:
        missing("opendkim")
    opendkim, openssl = programs
    key = tmp_path / "key.pem"
    subprocess.run(
        [str(openssl), "genrsa", "-out", str(key), "2048"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    key.chmod(0o600)
    configuration = tmp_path / "opendkim.conf"
    configuration.write_text(
        f"Domain client.example\nSelector sel\nKeyFile {key}\nMode s\nBackground no\n"
        "RequireSafeKeys no\nSocket unix:/overridden\n"
    )
    behind = Filter(f"unix:{tmp_path / 'f'}", 0, tmp_path, "behind")
    path = tmp_path / "s.rec"
    try:
        behind.start(command=[str(opendkim), "-f", "-x", configuration, "-p", behind.spec])
        traced(solo, behind.spec, path)
        transcript = solo.play()
        stored = solo.mta.stored(transcript.replies["content"])
        assert stored is not None
        names = [name for name, _ in stored.headers]
        assert "DKIM-Signature" in names, names
        (connection,) = connections(path)
        recording = mta.Recording.read(path)
        assert [] == recording.play(behind.spec, ignore=["DKIM-Signature"])
        (said,) = [
            record.data
            for record in connection.records
            if record.sender == FILTER and record.data[:1] == b"i"
        ]
        assert b"DKIM-Signature" in said
    finally:
        # libmilter takes five seconds to notice SIGTERM, and nothing is lost here.
        if behind.process is not None:
            behind.signal(signal.SIGKILL)
        behind.stop()
        solo.filter.stop()
