"""The examples of docs/smtp.md run as they stand there."""

from __future__ import annotations

import builtins
import re
import smtplib
from pathlib import Path
from typing import Any

import pytest
from mta_support import PATIENCE, Simple, packet

from harness.ports import reserved
from Milter import smtp

PAGE = Path(__file__).resolve().parents[2] / "docs" / "smtp.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def send(port: int, recipient: str) -> None:
    """Sends a message."""
    with smtplib.SMTP("127.0.0.1", port, "client.example.org", PATIENCE) as client:
        client.sendmail("a@example.com", [recipient], b"Subject: hi\r\n\r\nhello\r\n")


@pytest.mark.parametrize("number", range(3))
def test_examples(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each example serves mail, only on another port and with another filter."""
    assert 3 == len(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOSMTPD_CONTROLLER_TIMEOUT", str(PATIENCE))
    replies = {"E": packet("h", b"X-Seen\0yes\0") + packet("a")}

    def enter(_: str) -> str:
        send(port, "you@example.org")
        return ""

    with reserved() as port, Simple(tmp_path / "s", replies) as simple:
        text = EXAMPLES[number].replace("port=8025", f"port={port}")
        text = re.sub(r'"(inet:8893@127\.0\.0\.1|unix:/run/filter\.sock)"', repr(simple.spec), text)
        monkeypatch.setattr(builtins, "input", enter)
        names: dict[str, Any] = {}
        exec(compile(text, str(PAGE), "exec"), names)
        if number:
            controller = names["controller"]
            controller.start()
            try:
                send(port, "you@example.org")
                if number == 1:
                    with pytest.raises(smtplib.SMTPRecipientsRefused, match="Relaying denied"):
                        send(port, "you@example.com")
            finally:
                controller.stop()
        assert "E" in simple.letters
    kept = list(tmp_path.glob("mail/new/*"))
    said = capsys.readouterr().out
    if number == 0:
        (mail,) = kept
        assert "Subject: hi\nX-Seen: yes\n\nhello\n" in mail.read_text()
    elif number == 1:
        assert (
            "a@example.com ['you@example.org'] "
            "b'Subject: hi\\r\\nX-Seen: yes\\r\\n\\r\\nhello\\r\\n'\n"
            "the filter did: add header X-Seen: yes\n"
        ) == said


def test_names_are_documented() -> None:
    """The page has every name that the module exports, and every field of Handled."""
    page = PAGE.read_text(encoding="utf-8")
    for name in [*smtp.__all__, *smtp.Handled.__dataclass_fields__]:
        if name != "Handled":
            assert re.search(rf"\b{name}\b", page), name
