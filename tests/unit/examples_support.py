"""What the tests of sample.py and examples/ share: the programs, imported or run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from Milter import mta

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which something that does not happen has failed.
PATIENCE = 30.0


def load(name: str) -> Any:
    """Import sample.py or one of examples/ from its path, whatever else has that name."""
    path = ROOT / "sample.py" if name == "sample" else ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        # What other people's libraries are warned of is their affair.
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


class Program:
    """One of the programs, running, on a unix socket in a directory of its own.

    That it answers, on a first connection, is awaited: only then can it be connected to, and has it
    its handlers for signals.

    `foreign`: it imports libraries that may be warned of.
    """

    def __init__(self, name: str, *arguments: str | Path, foreign: bool = False) -> None:
        # A short path, as that of a socket must be.
        self.directory = Path(tempfile.mkdtemp(prefix="example-"))
        self.temporary = self.directory / "tmp"
        self.temporary.mkdir()
        self.socket = str(self.directory / "s")
        # Copied, so that what lies beside it does not hide a library that it imports.
        script = ROOT / ("sample.py" if name == "sample" else f"examples/{name}.py")
        copy = shutil.copy(script, self.directory)
        warning = "default" if foreign else "error"
        command = [sys.executable, "-W", warning, copy, "--socket", f"unix:{self.socket}"]
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
                cwd=self.directory,
            )
        try:
            deadline = time.monotonic() + 3 * PATIENCE
            while not self.answers():
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def answers(self) -> bool:
        """Tell whether somebody negotiates at its socket."""
        try:
            with self.connect() as session:
                session.negotiate()
        except mta.MilterError:
            return False
        return True

    def log(self) -> str:
        """Return what it has written so far."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Wait until its log holds this text."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def connect(self) -> mta.Session:
        """Connect to it as a mail server."""
        return mta.connect(self.socket, timeouts=mta.Timeouts.all(PATIENCE))

    def send(self, message: mta.Message, **more: Any) -> mta.Result:
        """Play one message to it over a connection of its own."""
        with self.connect() as session:
            return session.send(message, **more)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stop(self, faults: bool = False) -> None:
        """Ask it to end; it must, with status 0, and have raised nothing unless `faults`.

        Its directory goes with it.
        """
        try:
            self.process.terminate()
            status = self.process.wait(PATIENCE)
            text = self.log()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.directory)
        assert 0 == status, text
        assert faults == ("Traceback" in text), text


def message(
    headers: Iterable[tuple[str, str]] = (("Subject", "hi"),),
    body: str | bytes = b"hello\n",
    sender: str = "<alice@example.org>",
    recipients: Iterable[str | mta.Recipient] = ("<bob@example.com>",),
) -> mta.Message:
    """Make a message from a sender to recipients."""
    head = "".join(f"{name}: {value}\n" for name, value in headers)
    content = body if isinstance(body, bytes) else body.encode()
    return mta.Message.from_bytes(
        head.encode("utf-8", "surrogateescape") + b"\n" + content, sender, recipients
    )


#: A signed message and its key: RFC 8463, appendix A.
SIGNED = b"""\
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""
KEY = (
    b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR"
    b"6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5Qj"
    b"vHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)

#: What a Nameserver cannot tell.
DOWN = "down"


class Nameserver:
    """A name server for a table of records, on UDP port `port` of the loopback interface.

    `zone`: (name, type) -> what a Resolver of auth_results.py returns for it; DOWN: a failure.
    """

    def __init__(self, zone: Mapping[tuple[str, str], Any]) -> None:
        self.zone = zone
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        """Answer until an empty datagram comes."""
        import dns.message
        import dns.rcode
        import dns.rdatatype
        import dns.rrset

        while True:
            data, client = self.socket.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            question = query.question[0]
            rrtype = dns.rdatatype.to_text(question.rdtype)
            name = question.name.to_text(True).lower()
            found = self.zone.get((name, rrtype), [])
            response = dns.message.make_response(query)
            if found is DOWN:
                response.set_rcode(dns.rcode.SERVFAIL)
            elif found:
                texts = [
                    " ".join(f'"{part.decode()}"' for part in each) if rrtype == "TXT"
                    else "{} {}.".format(*each) if rrtype == "MX" else each
                    for each in found
                ]  # fmt: skip
                response.answer.append(dns.rrset.from_text(question.name, 60, "IN", rrtype, *texts))
            elif not any(known == name for known, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            self.socket.sendto(response.to_wire(), client)

    def stop(self) -> None:
        """End it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join()
        self.socket.close()
