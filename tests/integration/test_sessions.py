"""Sessions that are more than a row of the table: other ways in, many at once, clients that go."""

from __future__ import annotations

import email
import functools
import ipaddress
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .cases import (
    DISCARDED,
    FULL,
    OPENING,
    POSTFIX_TEMPFAIL,
    RECEIVED,
    SENDMAIL_TEMPFAIL,
    By,
    Kept,
    eom,
    pick,
)
from .checks import check_order, check_stored, compare
from .conftest import Place
from .filters import Log, filter_python, on_our_engine
from .mta import ROOT, wait_until
from .mta_postfix import Postfix
from .mta_sendmail import Sendmail
from .smtp import (
    BODY,
    EHLO,
    GREETING,
    HEADERS,
    ONE,
    QUIT,
    SENDER,
    TWO,
    Client,
    Say,
    Transcript,
    on_the_wire,
    play,
    render,
)
from .smtp import message_steps as message

pytestmark = pytest.mark.integration


def places(*endpoints: str, mtas: tuple[str, ...] = ("postfix", "sendmail")) -> list[Any]:
    """Return parameters for the fixture `place` or `solo`."""
    return [
        pytest.param((mta, endpoint), id=f"{mta}-{endpoint}", marks=getattr(pytest.mark, mta))
        for mta in mtas
        for endpoint in endpoints
    ]


ADDED = Kept(headers=(RECEIVED, *HEADERS, ("X-Added", "v")))
ADD = eom(["addheader", "X-Added", "v"])


# -- who connects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", places("unix", "inet", "inet6"), indirect=True)
def test_the_clients_address(place: Place) -> None:
    """Connect gets the client's name, family, address and port; IPv6 without Sendmail's prefix."""
    log = place.load({})
    transcript = place.play()
    log.wait_for_close()
    ((_, hostname, family, address),) = log.calls("connect")
    host, port = transcript.source
    if ":" in host:
        assert (int(socket.AF_INET6), [host, port, 0, 0]) == (family, address)
    else:
        assert (int(socket.AF_INET), [host, port]) == (family, address)
    # The name is this machine's affair; without one the servers give the address in brackets.
    if hostname.startswith("["):
        literal = hostname.strip("[]").removeprefix("IPv6:")
        assert ipaddress.ip_address(host) == ipaddress.ip_address(literal)
    else:
        assert host in {info[4][0] for info in socket.getaddrinfo(hostname, None)}


@pytest.mark.parametrize("place", places("unix", mtas=("sendmail",)), indirect=True)
def test_sendmail_on_standard_input(place: Place) -> None:
    """A session without a network has no family and no address (wire spec 2.7)."""
    assert isinstance(place.mta, Sendmail)
    log = place.load({"rules": [ADD]})
    content = on_the_wire(render(place.token))
    replies = place.mta.converse(
        b"EHLO client.example\r\n",
        *(step.text.encode() + b"\r\n" for step in message()[:-1] if isinstance(step.text, str)),
        content,
        b"QUIT\r\n",
    )
    log.wait_for_close()
    assert [("connect", "localhost", 0, None)] == log.calls("connect")
    stored = place.mta.stored(replies[-2])
    assert stored is not None
    compare(ADDED, stored, place)


@pytest.mark.parametrize("place", places("unix", mtas=("postfix",)), indirect=True)
def test_postfix_local_submission(place: Place) -> None:
    """Postfix plays an SMTP session for mail from sendmail(1): addresses without brackets."""
    assert isinstance(place.mta, Postfix)
    log = place.load({"rules": [ADD]})
    place.mta.submit(SENDER, [ONE, TWO], render(place.token))
    wait_until(lambda: log.path.exists(), "the filter sees the message")
    log.wait_for_close()
    ((_, hostname, family, address),) = log.calls("connect")
    assert hostname == "localhost"
    local = {int(socket.AF_INET): ["127.0.0.1", 0], int(socket.AF_INET6): ["::1", 0, 0, 0]}
    assert local[family] == address
    assert [("envfrom", SENDER)] == log.calls("envfrom")
    assert [("envrcpt", ONE), ("envrcpt", TWO)] == log.calls("envrcpt")
    queue_id = place.mta.queue_id_of(place.token)
    stored = place.mta.stored(f"queued as {queue_id}")
    assert stored is not None
    compare(ADDED, stored, place)


@pytest.mark.parametrize("place", places("unix", "inet", mtas=("postfix",)), indirect=True)
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            "NAME=client.example ADDR=192.0.2.7 PORT=4711",
            ("client.example", int(socket.AF_INET), ["192.0.2.7", 4711]),
        ),
        (
            "NAME=[UNAVAILABLE] ADDR=192.0.2.7 PORT=4711",
            ("[192.0.2.7]", int(socket.AF_INET), ["192.0.2.7", 4711]),
        ),
        (
            "NAME=six.example ADDR=IPV6:2001:db8::7 PORT=25",
            ("six.example", int(socket.AF_INET6), ["2001:db8::7", 25, 0, 0]),
        ),
    ],
    ids=["name", "no-name", "ipv6"],
)
def test_xclient(place: Place, attributes: str, expected: tuple[Any, ...]) -> None:
    """After XCLIENT the filter gets a connection of its own about the client that was named."""
    log = place.load({})
    steps = (
        GREETING,
        EHLO,
        # Greeted again, as the client that it claims to speak for.
        Say("2-greeting-noop", f"XCLIENT {attributes}"),
        Say("2-ehlo", "EHLO client.example"),
        *message(),
        QUIT,
    )
    transcript = place.play(steps)
    log.wait_for_close()
    assert transcript.replies["2-greeting-noop"][:3] == "220"
    connects = log.calls("connect")
    assert len(connects) == 2
    assert ("connect", *expected) == connects[1]
    # The new connection may begin before the filter has seen the end of the old one.
    assert [["negotiate", "connect", "hello", "close"], list(FULL)] == log.names_by_connection()
    check_stored(place, Kept(), transcript)


# -- clients that go away --------------------------------------------------------------------------


@pytest.mark.parametrize("place", places("unix", "inet"), indirect=True)
@pytest.mark.parametrize("last", ["greeting", "ehlo", "mail", "rcpt2", "data", "half", "content"])
def test_a_client_that_vanishes(place: Place, last: str) -> None:
    """Whenever the client is gone, the filter's session ends with abort, if need be, and close."""
    log = place.load({"rules": [ADD]})
    client = Client(place.address)
    try:
        for step in (GREETING, EHLO, *message()):
            if last == "half" and step.label == "content":
                client.send(b"Subject: half a message\r\n\r\nwithout an end\r\n")
                break
            client.say(step, on_the_wire(render(place.token)))
            if step.label == last:
                break
    finally:
        client.vanish()
    log.wait_for_close()
    transaction = ("envfrom", "envrcpt", "envrcpt", "data")
    seen = {
        "greeting": (),
        "ehlo": ("hello",),
        "mail": ("hello", "envfrom", "abort"),
        "rcpt2": ("hello", *transaction[:3], "abort"),
        "data": ("hello", *transaction, "abort"),
        # Neither MTA tells a filter of content before all of it is there.
        "half": ("hello", *transaction, "abort"),
        "content": FULL[2:-1],
    }[last]
    check_order(log, ("negotiate", "connect", *seen, "close"))
    # And the filter is there for the next one.
    again = place.load({"rules": [ADD]}, number=0)
    transcript = place.play()
    again.wait_for_close()
    check_stored(place, ADDED, transcript)


# -- many at once, one after the other -------------------------------------------------------------


@pytest.mark.parametrize("place", places("unix", "inet"), indirect=True)
def test_sessions_at_the_same_time(place: Place) -> None:
    """Ten sessions of three messages each do not get in each other's way."""
    count = 10
    log = place.load({"rules": [ADD]})
    steps = (GREETING, EHLO, *message("1-"), *message("2-"), *message("3-"), QUIT)
    transcripts: dict[int, Transcript] = {}
    together = threading.Barrier(count)

    def session(number: int) -> None:
        together.wait(30)
        content = render(f"{place.token}-{number}")
        transcripts[number] = play(place.address, steps, content)

    run_all([functools.partial(session, number) for number in range(count)])
    log.wait_for_close()
    one = (*OPENING, *FULL[3:-1] * 3, "close")
    assert [list(one)] * count == log.names_by_connection()
    token = place.token
    for number, transcript in transcripts.items():
        place.token = f"{token}-{number}"
        check_stored(place, {f"{n}-content": ADDED for n in (1, 2, 3)}, transcript)
    place.token = token


def run_all(jobs: list[Callable[[], None]]) -> None:
    """Run each job in a thread of its own; raise what the first that failed raised."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


@pytest.mark.parametrize("place", places("unix", "inet"), indirect=True)
def test_many_messages_on_one_connection(place: Place) -> None:
    """Fifty messages on one connection are all filtered; each is the one that was sent."""
    count = 50
    log = place.load({"rules": [eom(["replacebody", "replaced\r\n"])]})
    steps = (
        GREETING,
        EHLO,
        *(step for number in range(count) for step in message(f"{number}-")),
        QUIT,
    )
    transcript = place.play(steps)
    log.wait_for_close()
    check_order(log, (*OPENING, *FULL[3:-1] * count, "close"))
    wanted = {f"{number}-content": Kept(body="replaced\n") for number in range(count)}
    check_stored(place, wanted, transcript)


# -- two filters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", places("pair"), indirect=True)
def test_the_second_filter_sees_what_the_first_did(place: Place) -> None:
    """Content goes through the filters in order, with the changes; the envelope to both first."""
    first = place.load(
        {
            "rules": [
                eom(
                    ["addheader", "X-First", "1"],
                    ["chgheader", "Subject", 1, "Changed"],
                    ["chgheader", "X-Thing", 1, ""],
                    ["replacebody", "first\r\n"],
                )
            ]
        },
        number=0,
    )
    second = place.load({"rules": [eom(["addheader", "X-Second", "2"])]}, number=1)
    transcript = place.play()
    first.wait_for_close()
    second.wait_for_close()
    changed = [
        (name, "Changed" if name == "Subject" else value)
        for name, value in HEADERS
        if (name, value) != ("X-Thing", "first")
    ]
    check_order(first, FULL)
    headers = [tuple(call[1:]) for call in second.calls("header")]
    token = f"<{place.token}@client.example>"
    expected = [(name, token if name == "Message-ID" else value) for name, value in changed]
    assert [*expected, ("X-First", "1")] == headers
    assert [("body", {"latin1": "first\r\n"})] == second.calls("body")
    wanted = Kept(headers=(RECEIVED, *changed, ("X-First", "1"), ("X-Second", "2")), body="first\n")
    check_stored(place, wanted, transcript)


@pytest.mark.parametrize("place", places("pair"), indirect=True)
@pytest.mark.parametrize("verdict", ["REJECT", "DISCARD"])
def test_the_first_filter_ends_it_for_the_second(place: Place, verdict: str) -> None:
    """A message that the first filter ends in its content is aborted at the second."""
    first = place.load({"rules": [{"on": "header", "return": verdict}]}, number=0)
    second = place.load({}, number=1)
    transcript = place.play()
    first.wait_for_close()
    second.wait_for_close()
    check_order(first, (*FULL[:8], "close"))
    check_order(second, (*FULL[:7], "abort", "close"))
    if verdict == "REJECT":
        assert transcript.replies["content"][:1] == "5"
        assert not place.mta.holds(place.token)
    else:
        check_stored(place, DISCARDED, transcript)


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", places("impatient"), indirect=True)
def test_progress_keeps_an_impatient_mta_waiting(place: Place) -> None:
    """A filter that takes longer than the MTA waits is given up, unless it reports progress."""
    # The MTA waits four seconds for each packet. One session is the proof that it does, and goes on
    # beside the other.
    sessions: list[tuple[Log, str, Client]] = []
    replies: list[dict[str, str]] = [{}, {}]

    def rest(number: int) -> None:
        _, token, client = sessions[number]
        content = on_the_wire(render(token))
        for step in (EHLO, *message(), QUIT):
            replies[number][step.label] = client.say(step, content)

    try:
        for sleep in ([6, 1], [0.5, 12]):
            place.begin()
            log = place.load({"rules": [{**ADD, "sleep": sleep}]})
            sessions.append((log, place.token, Client(place.address)))
            # By then the filter has read its script.
            assert sessions[-1][2].say(GREETING)[:3] == "220"
        run_all([functools.partial(rest, number) for number in (0, 1)])
    finally:
        for _, _, client in sessions:
            client.close()
    for log, _, _ in sessions:
        log.wait_for_close()
    tempfail = pick(By(POSTFIX_TEMPFAIL, SENDMAIL_TEMPFAIL), place.mta.name)
    assert tempfail == replies[0]["content"]
    assert not place.mta.holds(sessions[0][1])
    check_stored(place, ADDED, Transcript(replies[1]))


# -- the example filter ----------------------------------------------------------------------------


MIXED = "\n".join(
    (
        "--xx",
        "Content-Type: text/plain",
        "",
        "..See the attachment.",
        "--xx",
        'Content-Type: application/octet-stream; name="plan.exe"',
        "",
        "not a program",
        "--xx--",
        "",
    )
)


@pytest.mark.parametrize("solo", places("solo-unix", "solo-inet"), indirect=True)
def test_the_example_filter(solo: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sample.py behind a real MTA: it lets pass, refuses, replaces an attachment, and stops."""
    if not on_our_engine():
        pytest.skip("not here: the example is tested with the library that it comes with")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it keeps originals
    solo.filter.start(command=[filter_python(), ROOT / "sample.py", "--socket", solo.filter.spec])
    stored = solo.mta.stored(solo.play().replies["content"])
    assert stored is not None
    assert stored.body == BODY.encode()
    assert list(tmp_path.glob("*.defang")) == []
    solo.begin()
    headers = [("Subject", "ADV: buy now"), *HEADERS]
    transcript = solo.play(content=render(solo.token, headers))
    assert transcript.replies["content"].startswith("554 5.7.1 ")
    assert not solo.mta.holds(solo.token)
    # An attachment in the message, and one that is the message.
    solo.begin()
    mixed = ("Content-Type", 'multipart/mixed; boundary="xx"')
    stored = solo.mta.stored(
        solo.play(content=render(solo.token, [*HEADERS, mixed], MIXED)).replies["content"]
    )
    assert stored is not None
    assert stored.values("Content-Type") == [mixed[1]]
    good, warning = email.message_from_bytes(
        f"{mixed[0]}: {mixed[1]}\n\n".encode() + stored.body
    ).get_payload()
    assert good.get_payload() == "..See the attachment."
    assert warning.get_content_type() == "text/plain"
    assert "plan.exe" in warning.get_payload()
    solo.begin()
    headers = [*HEADERS, ("Content-Type", 'application/octet-stream; name="plan.exe"')]
    stored = solo.mta.stored(
        solo.play(content=render(solo.token, headers, "not a program\n")).replies["content"]
    )
    assert stored is not None
    (content_type,) = stored.values("Content-Type")
    assert content_type.startswith("text/plain")
    assert b"plan.exe" in stored.body
    assert b"not a program" not in stored.body
    solo.filter.stop()
    assert len(list(tmp_path.glob("*.defang"))) == 2


# -- the socket ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solo", places("solo-unix", mtas=("postfix",)), indirect=True)
@pytest.mark.parametrize(("mode", "reply"), [(0o666, "250"), (0o600, "451")], ids=["0666", "0600"])
def test_socket_mode(solo: Place, mode: int, reply: str) -> None:
    """socket_mode= lets Postfix, which is not root, in or keeps it out, whatever the umask is."""
    if not on_our_engine():
        pytest.skip("not here: socket_mode= is not pymilter's")
    # A umask that would have it the other way round.
    solo.filter.umask = 0o077 if mode == 0o666 else 0o000
    solo.filter.start(f"socket_mode={mode}")
    transcript = solo.play()
    assert reply == transcript.replies["mail"][:3]
