#!/usr/bin/env python3
"""Rewrite recipients by a map: one to another, one to several, a whole domain to another.

    python examples/rewrite_rcpt.py --socket inet:8897@127.0.0.1 --map /etc/rewrite.map

The map has one rule on a line:

    # who            gets it instead
    bob@example.org  robert@example.com
    all@example.org  alice@example.com, robert@example.com
    @old.example     @new.example

The first of these that is there decides: the whole address, bob+lists@example.org; the address
without its extension, bob@example.org, and then the extension is carried over, so that it becomes
robert+lists@example.com; the domain, @example.org. What comes out is not looked up again. SIGHUP
has the map read anew.
"""

import argparse
import logging
import signal
import sys

import Milter

LOG = logging.getLogger("rewrite_rcpt")

# Between the name and its extension.
SEPARATOR = "+"


class Map:
    """The rules of one file."""

    def __init__(self, path):
        self.path = path
        self.rules = {}
        self.read()

    def read(self):
        """Read the file; raises OSError or ValueError, and leaves the rules as they were."""
        rules = {}
        # What is not UTF-8 matters in rules only, not in comments.
        with open(self.path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                words = line.partition("#")[0].replace(",", " ").lower().split()
                if not words:
                    continue
                if len(words) < 2 or not all(
                    "@" in word and "\ufffd" not in word for word in words
                ):
                    raise ValueError(f"{self.path}, line {number}: not an address and its new ones")
                rules[words[0]] = words[1:]
        # One assignment: a message that is being looked up goes on with the old rules.
        self.rules = rules

    def reload(self, *_):
        """Read the file again, as the handler of a signal; one with a mistake is not taken."""
        try:
            self.read()
            LOG.info("%d rules", len(self.rules))
        except (OSError, ValueError) as error:
            LOG.error("the old rules stay: %s", error)

    def rewrite(self, address):
        """Return the addresses that take the place of *address*, without brackets all of them."""
        local, at, domain = address.rpartition("@")
        if not at:
            return [address]  # "postmaster", the only one without a domain
        rules = self.rules
        user, plus, extension = local.partition(SEPARATOR)
        for key, suffix in (
            (f"{local}@{domain}", ""),
            (f"{user}@{domain}", plus + extension),
            (f"@{domain}", ""),
        ):
            if key.lower() in rules:
                new = [each.rpartition("@") for each in rules[key.lower()]]
                # "@new.example" changes the domain alone.
                return [f"{name + suffix if name else local}@{host}" for name, _, host in new]
        return [address]


class RewriteRcpt(Milter.Base):
    """One connection from the mail server."""

    def __init__(self, rules):
        self.id = Milter.uniqueID()
        self.rules = rules
        self.recipients = []

    @Milter.noreply
    def envfrom(self, sender, *params):
        self.recipients = []
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, recipient, *params):
        # Only remembered: recipients can be changed at the end of the message and nowhere else.
        self.recipients.append((recipient, params))
        return Milter.CONTINUE

    def eom(self):
        # Who is to get it in the end. Only the difference to who would get it now is told to the
        # mail server: if alice becomes bob, and bob becomes carol, bob must neither be deleted nor
        # added, or his copy would depend on the order.
        wanted = {}
        for recipient, params in self.recipients:
            for address in self.rules.rewrite(recipient.strip("<>")):
                wanted.setdefault(address.lower(), (address, params))
        present = set()
        for recipient, _ in self.recipients:
            present.add(recipient.strip("<>").lower())
            if recipient.strip("<>").lower() not in wanted:
                LOG.info("[%d] no longer to %r", self.id, recipient)
                # Exactly as it came: the mail server compares.
                self.delrcpt(recipient)
        for key, (address, params) in wanted.items():
            if key not in present:
                LOG.info("[%d] now to %r", self.id, address)
                self.addrcpt(f"<{address}>", self.keep(params))
        self.recipients = []
        return Milter.CONTINUE

    def keep(self, params):
        """Return those of the ESMTP *params* that hold for the new address, too; None for none.

        What the sender wants to be told (NOTIFY), and which address he knows (ORCPT), is as true as
        before (RFC 3461). Others, such as RRVS, are about the old mailbox.
        """
        # The mail server says at the beginning whether it takes any.
        if not self._actions & Milter.ADDRCPT_PAR:
            return None
        kept = [each for each in params if each.upper().startswith(("NOTIFY=", "ORCPT="))]
        return " ".join(kept) or None


def main(argv=None):
    """Run the filter until it is told to stop; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="Rewrite recipients.")
    parser.add_argument("--socket", default="inet:8897@127.0.0.1", help="where to listen")
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument("--map", required=True, metavar="FILE", help="the rules")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    try:
        rules = Map(options.map)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # With a handler of one's own, SIGHUP does not stop the filter. (Under pymilter it does.)
    signal.signal(signal.SIGHUP, rules.reload)
    # A factory is anything that can be called without arguments.
    Milter.factory = lambda: RewriteRcpt(rules)
    Milter.set_flags(Milter.ADDRCPT | Milter.ADDRCPT_PAR | Milter.DELRCPT)
    Milter.runmilter("rewrite_rcpt", options.socket, options.timeout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
