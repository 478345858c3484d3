"""The macros that each mail server gives a filter, and the lists a filter asks for."""

from __future__ import annotations

from typing import Any

import pytest

from .cases import By, pick
from .conftest import Place
from .filters import on_our_engine
from .mta_postfix import Postfix
from .smtp import EHLO, GREETING, ONE, QUIT, SENDER, TWO, Say
from .smtp import message_steps as message

PLACES = [
    pytest.param((mta, endpoint), id=f"{mta}-{endpoint}", marks=getattr(pytest.mark, mta))
    for mta in ("postfix", "sendmail")
    for endpoint in ("unix", "inet")
]

#: Every macro of either server's default lists (wire spec 2.7), but for those about TLS and AUTH,
#: which nobody speaks here. `{client_addr}` is in our configurations' list for CONNECT.
ASKED = [
    *("j", "_", "v", "i"),
    *("{daemon_name}", "{daemon_addr}", "{if_name}", "{if_addr}", "{client_addr}"),
    *("{mail_addr}", "{mail_host}", "{mail_mailer}"),
    *("{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
    *("{msg_id}", "{auth_type}", "{tls_version}", "{no_such_macro}"),
]

pytestmark = pytest.mark.integration


def mail_macros(place: Place) -> dict[str, str]:
    """Return what both servers say about the sender: Postfix would not know how to reach it."""
    host, mailer = pick(
        By(("5.1.2 nothing leaves this machine", "error"), ("[127.0.0.1]", "relay")),
        place.mta.name,
    )
    return {"{mail_addr}": SENDER, "{mail_host}": host, "{mail_mailer}": mailer}


def rcpt_macros(place: Place, address: str) -> dict[str, str]:
    """Return what both servers say about a good recipient."""
    host, mailer = pick(By(("dest.example", "virtual"), ("[127.0.0.1]", "relay")), place.mta.name)
    return {"{rcpt_addr}": address, "{rcpt_host}": host, "{rcpt_mailer}": mailer}


def connect_macros(place: Place, seen: dict[str, str]) -> dict[str, str]:
    """Return what both servers say about the connection.

    The client's name is the machine's affair, so what was *seen* is taken over once it is looked
    at.
    """
    assert seen["_"].endswith("[127.0.0.1]")
    expected = {"j": "mail.example.org", "{client_addr}": "127.0.0.1", "_": seen["_"]}
    if isinstance(place.mta, Postfix):
        assert seen["v"] == f"Postfix {place.mta.version()}"
        return {
            **expected,
            "{daemon_name}": "mail.example.org",
            "{daemon_addr}": "127.0.0.1",
            "v": seen["v"],
        }
    assert seen["{if_name}"]
    # The name of the DaemonPortOptions; no {if_addr} for a loopback address.
    return {**expected, "{daemon_name}": place.endpoint.name, "{if_name}": seen["{if_name}"]}


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_default_macros_at_every_step(place: Place) -> None:
    """Every callback finds the macros of its stage and of those before, of this message only."""
    log = place.load({"macros": ASKED})
    again = [Say(f"2-{step.label}", step.text) for step in message()[:2]]
    transcript = place.play((GREETING, EHLO, *message(), *again, QUIT))
    log.wait_for_close()
    connection = connect_macros(place, log.macros("connect"))
    queue_id = transcript.replies["content"]
    queue_id = queue_id.split()[-1] if place.mta.name == "postfix" else queue_id.split()[2]
    # Sendmail has a queue id from MAIL on, Postfix from the second RCPT on (wire spec 2.7).
    early = {"i": queue_id} if place.mta.name == "sendmail" else {}
    mail = {**connection, **mail_macros(place)}
    first = {**mail, **rcpt_macros(place, ONE)}
    second = {**mail, "i": queue_id, **rcpt_macros(place, TWO)}
    message_id = {"{msg_id}": f"<{place.token}@client.example>"}
    final = {**second, **(message_id if place.mta.name == "sendmail" else {})}
    assert connection == log.macros("connect")
    assert connection == log.macros("hello")
    assert {**mail, **early} == log.macros("envfrom")
    assert {**first, **early} == log.macros("envrcpt", 0)
    assert second == log.macros("envrcpt", 1)
    for name in ("data", "header", "eoh", "body"):
        assert second == log.macros(name), name
    assert final == log.macros("eom")
    # The second transaction, which the client gives up: nothing of the first message is left.
    next_id = log.macros("envfrom", 1).get("i")
    assert next_id != queue_id
    early = {"i": next_id} if place.mta.name == "sendmail" and next_id else {}
    assert {**mail, **early} == log.macros("envfrom", 1)
    assert {**first, **early} == log.macros("envrcpt", 2)
    # Still there in the last two.
    assert {**first, **early} == log.macros("abort")
    assert {**first, **early} == log.macros("close")


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_macros_of_a_rejected_recipient(place: Place) -> None:
    """For a recipient that the MTA refuses the macros say so, with its code and its words."""
    nosuch = Say("rcpt2", "RCPT TO:<nosuch@mail.example.org>")
    log = place.load({"macros": ASKED, "options": ["rejected_recipients"]})
    place.play((GREETING, EHLO, *message()[:2], nosuch, *message()[3:], QUIT))
    log.wait_for_close()
    found = log.macros("envrcpt", 1)
    words = By(
        "Recipient address rejected: User unknown in virtual mailbox table",
        "550 5.1.1 User unknown",
    )
    expected = {
        "{rcpt_mailer}": "error",
        "{rcpt_host}": "5.1.1",
        "{rcpt_addr}": pick(words, place.mta.name),
    }
    assert expected == {name: found.get(name) for name in expected}


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_macro_with_and_without_braces(place: Place) -> None:
    """A name of one letter is found either way, a longer one only as it is sent (wire spec 3.5)."""
    log = place.load({"macros": ["j", "{j}", "{mail_addr}", "mail_addr"]})
    place.play()
    log.wait_for_close()
    expected = {"j": "mail.example.org", "{j}": "mail.example.org", "{mail_addr}": SENDER}
    assert expected == log.macros("envfrom")


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_symlist(place: Place) -> None:
    """With @symlist the MTA sends the macros asked for at that step, and no others."""
    if not on_our_engine():
        pytest.skip("not here: pymilter's @symlist does not work on Python 3 (API spec 2.4)")
    asked: dict[str, Any] = {
        "connect": ["j", "{client_addr}"],
        "hello": ["{tls_version}"],
        "envfrom": ["{mail_addr}"],
        "envrcpt": ["{rcpt_addr}", "{rcpt_mailer}"],
        "eoh": ["i"],
        "eom": ["i"],
    }
    decorate = {name: [["symlist", *macros]] for name, macros in asked.items()}
    log = place.load({"macros": ASKED, "decorate": decorate})
    transcript = place.play()
    log.wait_for_close()
    connection = {"j": "mail.example.org", "{client_addr}": "127.0.0.1"}
    mail = {**connection, "{mail_addr}": SENDER}
    rcpt = rcpt_macros(place, ONE)
    del rcpt["{rcpt_host}"]
    assert connection == log.macros("connect")
    assert connection == log.macros("hello")
    assert mail == log.macros("envfrom")
    assert {**mail, **rcpt} == log.macros("envrcpt")
    found = log.macros("eom")
    assert {**mail, **rcpt, "{rcpt_addr}": TWO, "i": found["i"]} == found
    assert found["i"] in transcript.replies["content"]
