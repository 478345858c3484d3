"""The example greylister.py: who is put off, who is not, and what happens without the list."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples_support import Program, load, message

import Milter
from Milter import greylist, mta

greylister = load("greylister")

CLIENT = mta.SmtpClient("mail.example.net", "192.0.2.1", 25)
LATER = "451 4.7.1 Greylisted, please come again in 10 minutes"


class Greylister:
    """The program, and the list that it uses."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.url = f"sqlite:///{directory}/grey.db"
        self.program = Program("greylister", "--store", self.url, *arguments)

    def seen(self, ip: str, sender: str, recipient: str, ago: float) -> None:
        """Have the list know what came some seconds ago."""
        store = greylist.open(self.url)
        store.check(ip, sender, recipient, timeinc=-ago)
        store.close()

    def send(self, **more: Any) -> mta.Result:
        """Send a message from CLIENT."""
        macros = more.pop("macros", None)
        client = more.pop("client", CLIENT)
        return self.program.send(message(**more), client=client, macros=macros)


@pytest.fixture(scope="module")
def running(waiting: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Greylister]:
    """The program with a list of its own."""
    running = Greylister(tmp_path_factory.mktemp("grey"), "--exempt", "198.51.100.0/24")
    yield running
    running.program.stop()


def test_the_first_time(running: Greylister) -> None:
    """Each recipient that the sender has not written to is put off, at RCPT, and again at once."""
    for _ in range(2):
        result = running.send(sender="<first@example.org>")
        assert (mta.Outcome.TEMPFAILED, LATER) == (result.outcome, result.reply)
        assert {"rcpt"} == {step.name for step in result.refused}
        assert "data" not in {step.name for step in result.steps}


def test_the_second_time(running: Greylister) -> None:
    """Who comes again after ten minutes is let in; another recipient of the message is not."""
    running.seen("192.0.2.0", "again@example.org", "bob@example.com", ago=700)
    result = running.send(
        sender="<Again@example.org>", recipients=["<BOB@example.com>", "<new@example.com>"]
    )
    assert (mta.Outcome.ACCEPTED, ()) == (result.outcome, result.modifications)
    assert ["<new@example.com>"] == [step.argument for step in result.refused]


@pytest.mark.parametrize(
    ("ip", "network", "other"),
    [
        ("192.0.2.77", "192.0.2.0", "192.0.3.77"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::", "2001:db8:1:3:3::4"),
        ("::ffff:192.0.2.77", "192.0.2.0", "::ffff:192.0.3.77"),
    ],
)
def test_the_network_counts(running: Greylister, ip: str, network: str, other: str) -> None:
    """Another address of the same network is as good, one of another network is not."""
    sender = f"{ip}@example.org"
    running.seen(network, sender, "bob@example.com", ago=700)
    outcomes = [
        running.send(sender=f"<{sender}>", client=mta.SmtpClient("x", address)).outcome
        for address in (ip, other)
    ]
    assert [mta.Outcome.ACCEPTED, mta.Outcome.TEMPFAILED] == outcomes


@pytest.mark.parametrize(
    ("client", "macros"),
    [
        (CLIENT, {"{auth_authen}": "alice"}),
        (mta.SmtpClient("x", "198.51.100.9"), None),
        (mta.SmtpClient("localhost", "/run/socket"), None),
        (mta.SmtpClient("localhost", None), None),
    ],
)
def test_who_is_not_greylisted(
    running: Greylister, client: mta.SmtpClient, macros: dict[str, str] | None
) -> None:
    """Users who have logged in, networks that are named, and mail from this machine."""
    result = running.send(sender="<new@example.org>", client=client, macros=macros)
    assert mta.Outcome.ACCEPTED is result.outcome


def test_exemption_ends_with_the_message(running: Greylister) -> None:
    """What one message is let pass for does not hold for the next of the connection."""
    with running.program.connect() as session:
        first = session.send(
            message(sender="<n@example.org>"), client=CLIENT, macros={"{auth_authen}": "alice"}
        )
        second = session.send(message(sender="<n@example.org>"))
    assert (mta.Outcome.ACCEPTED, mta.Outcome.TEMPFAILED) == (first.outcome, second.outcome)


def test_bounces(running: Greylister) -> None:
    """The null sender is a sender as any other."""
    running.seen("192.0.2.0", "", "bob@example.com", ago=700)
    assert mta.Outcome.ACCEPTED is running.send(sender="<>").outcome
    assert mta.Outcome.TEMPFAILED is running.send(sender="<>", recipients=["<x@y>"]).outcome


def test_by_default_this_machine_is_exempt(waiting: str, tmp_path: Path) -> None:
    """Without --exempt the loopback interface is let pass, and nobody else."""
    running = Greylister(tmp_path)
    try:
        for address, outcome in [
            ("127.0.0.2", mta.Outcome.ACCEPTED),
            ("::1", mta.Outcome.ACCEPTED),
            ("198.51.100.9", mta.Outcome.TEMPFAILED),
        ]:
            assert outcome is running.send(client=mta.SmtpClient("x", address)).outcome
    finally:
        running.program.stop()


class Broken:
    """A list that is out of reach."""

    def check(self, *args: Any) -> int:
        """Raise what a store raises."""
        raise greylist.StoreError("no route to host")


@pytest.mark.parametrize("failure", [Milter.CONTINUE, Milter.TEMPFAIL])
def test_out_of_reach(failure: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the list the recipient is answered as was chosen, and no text is set."""
    monkeypatch.setattr(greylister.Greylister, "store", Broken())
    monkeypatch.setattr(greylister.Greylister, "failure", failure)
    instance = greylister.Greylister()
    instance._setctx(type("Context", (), {
        "setpriv": lambda self, value: None, "getsymval": lambda self, name: None,
    })())  # fmt: skip
    assert Milter.CONTINUE == instance.connect("x", 2, ("192.0.2.1", 25))
    instance.envfrom("<a@example.org>")
    assert failure == instance.envrcpt("<b@example.org>")


def test_another_delay(waiting: str, tmp_path: Path) -> None:
    """--delay is how long a new sender has to wait, and is told to him."""
    running = Greylister(tmp_path, "--delay", "20")
    try:
        running.seen("192.0.2.0", "alice@example.org", "bob@example.com", ago=700)
        assert LATER.replace("10", "20") == running.send().reply
        running.seen("192.0.2.0", "carol@example.org", "bob@example.com", ago=1300)
        assert mta.Outcome.ACCEPTED is running.send(sender="<carol@example.org>").outcome
    finally:
        running.program.stop()


@pytest.mark.parametrize("url", ["sqlite:///nowhere/at/all", "mysql://x", "sqlite://x"])
def test_no_such_list(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A list that cannot be opened ends the program with 2, and it says why."""
    with pytest.raises(SystemExit) as caught:
        greylister.main(["--store", url])
    assert 2 == caught.value.code
    assert ": error: " in capsys.readouterr().err


@pytest.mark.parametrize("network", ["example.org", "192.0.2.0/33", "192.0.2.*", ""])
def test_no_network(
    network: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exemption that is no network ends the program at the start, not every message later."""
    monkeypatch.setattr(Milter, "runmilter", lambda *_: pytest.fail("it was started"))
    with pytest.raises(SystemExit) as caught:
        greylister.main(["--store", f"sqlite:///{tmp_path}/grey.db", "--exempt", network])
    assert 2 == caught.value.code
    assert ": error: " in capsys.readouterr().err


def test_no_redis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without redis-py a list in redis ends the program, and it names the extra."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SystemExit) as caught:
        greylister.main(["--store", "redis://127.0.0.1/0"])
    assert 2 == caught.value.code
    assert 'pip install "pymilter-cffi[redis]"' in capsys.readouterr().err


def test_clean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """--clean deletes what is too old, says how much, and ends."""
    caplog.set_level("INFO", logger="greylister")
    url = f"sqlite:///{tmp_path}/grey.db"
    store = greylist.open(url)
    day = 86400
    store.check("192.0.2.0", "old@example.org", "b@example.org", timeinc=-40 * day)
    store.check("192.0.2.0", "new@example.org", "b@example.org")
    store.close()
    assert 0 == greylister.main(["--store", url, "--clean"])
    assert "1 entries deleted" in caplog.text
