"""The programs in examples/ behind a real Postfix: what each does to a message that arrives."""

from __future__ import annotations

import importlib.util
import mailbox
from pathlib import Path
from typing import Any

import pytest

from .conftest import Place
from .filters import filter_python, on_our_engine
from .mta import ROOT, Stored
from .smtp import BODY, EHLO, GREETING, ONE, QUIT, SENDER, TWO, Say, Transcript, message_steps


def _support() -> Any:
    """Import what the unit tests of the examples share."""
    spec = importlib.util.spec_from_file_location(
        "examples_support", ROOT / "tests" / "unit" / "examples_support.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = _support()

pytestmark = [
    pytest.mark.integration,
    pytest.mark.postfix,
    pytest.mark.parametrize(
        "solo", [pytest.param(("postfix", "solo-unix"), id="postfix")], indirect=True
    ),
]


@pytest.fixture(autouse=True)
def _ours() -> None:
    """The examples are tested with the library that they come with."""
    if not on_our_engine():
        pytest.skip("not here: the examples are tested with the library that they come with")


def start(solo: Place, name: str, *arguments: str | Path) -> None:
    """Start an example as the endpoint's filter."""
    script = ROOT / "examples" / f"{name}.py"
    solo.filter.start(
        command=[filter_python(), script, "--socket", solo.filter.spec, *map(str, arguments)]
    )


def delivered(solo: Place, transcript: Transcript) -> Stored:
    """Return the one message that was accepted."""
    assert transcript.replies["content"].startswith("250"), transcript.replies
    stored = solo.mta.stored(transcript.replies["content"])
    assert stored is not None
    return stored


def to(*recipients: str, sender: str = SENDER, before: tuple[Say, ...] = ()) -> tuple[Say, ...]:
    """Return the steps of a session with one message to these recipients (with parameters)."""
    return (
        GREETING,
        *before,
        EHLO,
        Say("mail", f"MAIL FROM:<{sender}>"),
        *(Say(f"rcpt{n}", f"RCPT TO:{each}") for n, each in enumerate(recipients, 1)),
        Say("data", "DATA"),
        Say("content"),
        QUIT,
    )


def test_template(solo: Place) -> None:
    """template.py: one more recipient gets the message, and a HELO without a dot is refused."""
    start(solo, "template", "--spy", "<added@dest.example>")
    stored = delivered(solo, solo.play())
    assert ["added@dest.example", ONE, TWO] == stored.recipients
    assert BODY.encode() == stored.body
    transcript = solo.play((GREETING, Say("ehlo", "EHLO spamrelay"), *message_steps(), QUIT))
    # Postfix tells the client at MAIL what was said to HELO.
    assert transcript.replies["mail"].startswith("550 "), transcript.replies
    assert "5.7.1 Use your full one." in transcript.replies["mail"]
    solo.filter.stop()


def test_nomix(solo: Place) -> None:
    """nomix.py: a sender inside does not reach recipients outside, a sender outside does."""
    start(solo, "nomix", "--internal", "corp")
    assert [ONE, TWO] == delivered(solo, solo.play()).recipients
    solo.begin()
    transcript = solo.play(to(f"<{ONE}>", sender="a@sales.corp"))
    assert (
        "550 5.7.1 Internal and external addresses must not be mixed in one message"
        == transcript.replies["data"]
    )
    assert not solo.mta.holds(solo.token)
    solo.filter.stop()


def test_rewrite_rcpt(solo: Place, tmp_path: Path) -> None:
    """rewrite_rcpt.py: who is delivered to, one for another, one for two, and in a circle."""
    rules = tmp_path / "map"
    rules.write_text(
        "one@dest.example added@dest.example\n"
        "other@dest.example two@dest.example added@dest.example\n"
        "two@dest.example two@dest.example one@dest.example\n",
        encoding="utf-8",
    )
    start(solo, "rewrite_rcpt", "--map", rules)
    stored = delivered(solo, solo.play(to("<one@dest.example>")))
    assert ["added@dest.example"] == stored.recipients
    stored = delivered(solo, solo.play(to("<other@dest.example>")))
    assert ["added@dest.example", "two@dest.example"] == stored.recipients
    # one becomes added; two stays, and becomes one, too: who is there before and after is not
    # touched, so nobody is lost.
    stored = delivered(solo, solo.play(to("<one@dest.example>", "<two@dest.example>")))
    assert ["added@dest.example", "one@dest.example", "two@dest.example"] == stored.recipients
    solo.filter.stop()


def test_greylister(solo: Place, tmp_path: Path) -> None:
    """greylister.py: each recipient is put off until the sender comes again."""
    from Milter import greylist

    url = f"sqlite:///{tmp_path}/grey.db"
    start(solo, "greylister", "--store", url, "--exempt", "192.0.2.0/24")
    transcript = solo.play(to(f"<{ONE}>", f"<{TWO}>"))
    for label in ("rcpt1", "rcpt2"):
        reply = transcript.replies[label]
        # Postfix puts the address before a text of a recipient's.
        assert reply.startswith("451 4.7.1 "), reply
        assert reply.endswith("Greylisted, please come again in 10 minutes")
    # One who was put off twelve minutes ago, for one of the two.
    with greylist.open(url) as store:
        store.check("127.0.0.0", "again@client.example", ONE, timeinc=-720)
    solo.begin()
    transcript = solo.play(to(f"<{ONE}>", f"<{TWO}>", sender="again@client.example"))
    assert transcript.replies["rcpt2"].startswith("451 4.7.1 ")
    assert [ONE] == delivered(solo, transcript).recipients
    solo.filter.stop()


def test_auth_results(solo: Place) -> None:
    """auth_results.py: a signature that comes through Postfix is good; forged headers go."""
    pytest.importorskip("dkim", reason='no dkimpy: pip install "pymilter-cffi[examples]"')
    pytest.importorskip("spf", reason='no pyspf: pip install "pymilter-cffi[examples]"')
    server = support.Nameserver(
        {
            ("test._domainkey.football.example.com", "TXT"): [
                (support.KEY[:200], support.KEY[200:])
            ],
            ("client.example", "TXT"): [(b"v=spf1 ip4:127.0.0.0/8 ip6:::1 -all",)],
            ("forger.example", "TXT"): [(b"v=spf1 -all",)],
        }
    )
    try:
        start(
            solo, "auth_results",
            "--authserv-id", "mail.example.org", "--nameserver", f"127.0.0.1@{server.port}",
        )  # fmt: skip
        stored = delivered(solo, solo.play(content=support.SIGNED))
        assert [
            "mail.example.org;\n\tspf=pass smtp.mailfrom=sender@client.example;\n"
            "\tdkim=pass header.d=football.example.com header.s=test"
        ] == stored.values("Authentication-Results")
        # On top, above what Postfix itself has added.
        assert "Authentication-Results" == stored.headers[0][0]
        assert support.SIGNED.partition(b"\n\n")[2] == stored.body
        forged = b"authentication-results: mail.example.org; dkim=pass header.d=bank.example\n"
        other = b"Authentication-Results: other.example; none\n"
        stored = delivered(
            solo,
            solo.play(
                to(f"<{ONE}>", sender="a@forger.example"),
                content=forged + other + forged + support.SIGNED.replace(b"hungry", b"thirsty"),
            ),
        )
        assert [
            "mail.example.org;\n\tspf=fail smtp.mailfrom=a@forger.example;\n"
            "\tdkim=fail header.d=football.example.com header.s=test",
            "other.example; none",
        ] == stored.values("Authentication-Results")
        solo.filter.stop()
    finally:
        server.stop()


def test_archive(solo: Place, tmp_path: Path) -> None:
    """archive.py: the message is delivered as it was, and a copy is kept with its envelope."""
    start(solo, "archive", "--maildir", tmp_path / "kept")
    transcript = solo.play(to(f"<{ONE}> NOTIFY=NEVER", f"<{TWO}>", "<nobody@dest.example>"))
    assert transcript.replies["rcpt3"].startswith("550 5.1.1 "), transcript.replies
    stored = delivered(solo, transcript)
    assert [ONE, TWO] == stored.recipients
    box = mailbox.Maildir(tmp_path / "kept", create=False)
    (copy,) = [box.get_message(key) for key in box.keys()]  # noqa: SIM118 (else: messages)
    assert [f"<{ONE}> NOTIFY=NEVER", f"<{TWO}>"] == copy.get_all("X-Archive-To")
    assert copy["X-Archive-From"].startswith(f"<{SENDER}>")
    assert copy["X-Archive-Queue-Id"] in transcript.replies["content"]
    assert copy["X-Archive-Client"].endswith(" [127.0.0.1]")
    for name, value in stored.headers:
        if name != "Received":
            assert value.strip() in [each.strip() for each in copy.get_all(name, [])]
    assert BODY == copy.get_payload()
    # Without its directory nothing can be kept, and nothing passes.
    solo.begin()
    box.clear()
    (tmp_path / "kept" / "tmp").rmdir()
    transcript = solo.play()
    assert "451 4.3.0 The message cannot be archived right now" == transcript.replies["content"]
    assert not solo.mta.holds(solo.token)
    solo.filter.stop()
