"""The PyPI package miltertest plays the mail server; run with the oracle's interpreter.

    python pypi_client.py SOCKET SCENARIO

Prints what the filter did as JSON lines: the negotiated numbers, then [sent command, reply]. The
client itself raises, and so ends this program, where a reply breaks the protocol as it knows it.
"""

import json
import socket
import sys
import time

from miltertest import constants
from miltertest.client import MilterConnection

#: Seconds that may pass until the filter listens, and until it answers.
PATIENCE = 30


def plain(value):
    """Turn what the client returns into JSON."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in sorted(value.items())}
    return value


def show(what, reply):
    """Print one exchange."""
    print(json.dumps([what, plain(reply)]))


def envelope(client, last="rcpt"):
    """Play the steps up to the recipients, or to MAIL."""
    client.send_macro(constants.SMFIC_CONNECT, j="mx.example.org")
    show("connect", client.send_ar(constants.SMFIC_CONNECT, hostname="client.example.org",
         family=constants.SMFIA_INET, port=4711, address="192.0.2.1"))  # fmt: skip
    show("helo", client.send_ar(constants.SMFIC_HELO, helo="client.example.org"))
    client.send_macro(constants.SMFIC_MAIL, i="4ABC")
    show("mail", client.send_ar(constants.SMFIC_MAIL, args=["<alice@example.org>", "SIZE=100"]))
    if last == "mail":
        return
    show("rcpt", client.send_ar(constants.SMFIC_RCPT, args=["<bob@example.com>"]))


def content(client, body):
    """Play the rest of a message."""
    show("data", client.send_ar(constants.SMFIC_DATA))
    show("headers", client.send_headers([("Subject", "Lunch"), ("From", "alice"), ("X", "")]))
    show("eoh", client.send_ar(constants.SMFIC_EOH))
    show("body", client.send_body(body))
    show("eom", client.send_eom())


def connect(connection, path):
    """Connect, as soon as somebody listens: the socket's file is there a moment before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.connect(path)
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def main():
    """Play one scenario."""
    path, scenario = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connect(connection, path)
        client = MilterConnection(connection)
        show("negotiate", client.optneg_mta())
        envelope(client, "mail" if scenario == "mail" else "rcpt")
        if scenario in ("message", "large"):
            # Larger than one chunk, to see it cut.
            content(client, "Hello\r\n" if scenario == "message" else "x" * 150000 + "\r\n")
        connection.shutdown(socket.SHUT_WR)
        show("end", connection.recv(1))


main()
