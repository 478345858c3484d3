#!/usr/bin/env python3
"""Refuse messages that mix addresses of an inner network with addresses of the world outside.

Some networks have domains of their own that nobody else knows, such as alice@sales.corp. A message
from there to the outside can never be answered, and one that goes to both kinds of recipients shows
the outside what it should not see. So: all inside, or all outside.

    python examples/nomix.py --socket inet:8895@127.0.0.1 --internal corp --internal personal
"""

import argparse
import logging

import Milter
from Milter.utils import parse_addr

LOG = logging.getLogger("nomix")


class NoMix(Milter.Base):
    """One connection from the mail server."""

    # The top-level domains that are inside, in lower case. On the class: they are the same for all
    # connections.
    internal = ("corp", "personal")

    def __init__(self):
        self.id = Milter.uniqueID()
        self.addresses = []

    # Neither of these objects to anything, so that the mail server need not wait for them.
    @Milter.noreply
    def envfrom(self, sender, *params):
        # A message begins: the sender takes the place of all that was before. "<>", the sender of
        # bounces, has no domain, and goes with either kind.
        self.addresses = [sender]
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, recipient, *params):
        self.addresses.append(recipient)
        return Milter.CONTINUE

    # All addresses are known here, and nothing of the message has been sent yet.
    def data(self):
        inside = [address for address in self.addresses if self.is_inside(address) is True]
        outside = [address for address in self.addresses if self.is_inside(address) is False]
        if inside and outside:
            LOG.info("[%d] refused: %r with %r", self.id, inside, outside)
            self.setreply(
                "550", "5.7.1", "Internal and external addresses must not be mixed in one message"
            )
            return Milter.REJECT
        # There is no method for any later step, so the mail server does not send those.
        return Milter.CONTINUE

    def is_inside(self, address):
        """Tell whether *address* is in a domain of ours; None if it is in no domain at all."""
        # ["user", "sales.corp"], or without an @ only ["user"].
        domain = parse_addr(address)[1:]
        if not domain or not domain[0]:
            return None
        # A name may end with a dot, and be written in capitals.
        top = domain[0].rstrip(".").rpartition(".")[2].lower()
        return top in self.internal


def main(argv=None):
    """Run the filter until it is told to stop; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="Keep inside and outside apart.")
    parser.add_argument("--socket", default="inet:8895@127.0.0.1", help="where to listen")
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument(
        "--internal",
        action="append",
        metavar="TLD",
        help="a top-level domain that is inside; may be repeated (default: corp, personal)",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    if options.internal:
        NoMix.internal = tuple(name.strip(".").lower() for name in options.internal)
    Milter.factory = NoMix
    # No set_flags(): it changes nothing.
    Milter.runmilter("nomix", options.socket, options.timeout)


if __name__ == "__main__":
    main()
