#!/usr/bin/env python3
"""Greylisting: who has never written to somebody before is asked to come again in ten minutes.

A mail server does so; most programs that send spam do not. What was seen is kept in a database, by
the client's network, the sender and the recipient.

    python examples/greylister.py --socket inet:8899@127.0.0.1 --store sqlite:///var/lib/grey.db
    python examples/greylister.py --store sqlite:///var/lib/grey.db --clean

The second line is for cron, once a day: it deletes what is too old to matter. With
--store redis://HOST several mail servers share one list (pip install "pymilter-cffi[redis]").

Not greylisted are: users who have logged in, mail from this machine, and the networks that are
named with --exempt.
"""

import argparse
import ipaddress
import logging
import sys

import Milter
from Milter import greylist
from Milter.utils import iniplist

LOG = logging.getLogger("greylister")

# How much of a client's address counts, in bits: large senders come again from the next address of
# the same network. By the version of IP.
PREFIX = {4: 24, 6: 64}


def network(ip):
    """Return the network of *ip*, as text."""
    address = ipaddress.ip_address(ip)
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ipaddress.ip_network((address, PREFIX[address.version]), strict=False)[0])


class Greylister(Milter.Base):
    """One connection from the mail server."""

    # The list, the same for all connections: it may be used from any thread.
    store = None
    delay = 10
    exempt = ["127.0.0.0/8", "::1"]
    # What becomes of a recipient while the list cannot be reached. Greylisting is no gate that must
    # not be left open: mail goes on. With TEMPFAIL everybody is greylisted until the list is back.
    failure = Milter.CONTINUE

    def __init__(self):
        self.id = Milter.uniqueID()
        self.ip = None
        self.sender = None
        self.exempted = False

    def connect(self, hostname, family, hostaddr):
        if not isinstance(hostaddr, tuple):
            return Milter.ACCEPT  # None, or a path: mail from this machine
        ip = hostaddr[0].partition("%")[0]  # without the zone of fe80::1%eth0
        if iniplist(ip, self.exempt):
            return Milter.ACCEPT  # the whole connection
        self.ip = network(ip)
        return Milter.CONTINUE

    @Milter.noreply
    def envfrom(self, sender, *params):
        self.sender = sender.strip("<>").lower()
        self.exempted = self.getsymval("{auth_authen}") is not None
        return Milter.CONTINUE

    # Here and not at the end: each recipient is greylisted for himself, and nothing of the message
    # has been sent yet.
    def envrcpt(self, recipient, *params):
        if self.exempted:
            return Milter.CONTINUE
        recipient = recipient.strip("<>").lower()
        try:
            # How often this was seen and let pass, 0 if it is too early.
            count = self.store.check(self.ip, self.sender, recipient)
        except greylist.StoreError as error:
            LOG.error("[%d] the list is out of reach: %s", self.id, error)
            return self.failure
        LOG.info("[%d] %s %r %r: %s", self.id, self.ip, self.sender, recipient, count or "later")
        if count:
            return Milter.CONTINUE
        # 4.7.1: for reasons of policy, and not for good.
        self.setreply("451", "4.7.1", f"Greylisted, please come again in {self.delay} minutes")
        return Milter.TEMPFAIL


def main(argv=None):
    """Run the filter until it is told to stop; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="Greylist unknown senders.")
    parser.add_argument("--socket", default="inet:8899@127.0.0.1", help="where to listen")
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument("--store", required=True, metavar="URL", help="where the list is kept")
    parser.add_argument("--delay", type=int, default=10, metavar="MINUTES", help="default: 10")
    parser.add_argument("--clean", action="store_true", help="delete old entries, and end")
    parser.add_argument(
        "--exempt",
        action="append",
        metavar="NETWORK",
        help="as 192.0.2.0/24; may be repeated (default: this machine)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="put mail off while the list is out of reach"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    # What is wrong here would otherwise show in a callback, once for every message.
    try:
        for each in options.exempt or ():
            ipaddress.ip_network(each, strict=False)
        store = greylist.open(options.store, grey_time=options.delay)
    except (greylist.StoreError, ImportError, ValueError) as error:
        parser.error(str(error))
    try:
        if options.clean:
            LOG.info("%d entries deleted", store.clean())
            return 0
        Greylister.store = store
        Greylister.delay = options.delay
        if options.exempt:
            Greylister.exempt = options.exempt
        if options.strict:
            Greylister.failure = Milter.TEMPFAIL
        Milter.factory = Greylister
        # No set_flags(): the message stays as it is.
        Milter.runmilter("greylister", options.socket, options.timeout)
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
