"""Overrides negotiate: asks the parent, prints the offer, changes the protocol in place."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter


class Negotiating(Milter.Base):
    def negotiate(self, opts):
        print([hex(x & 0xFFFFFFFF) for x in opts])
        rc = super().negotiate(opts)
        opts[1] |= getattr(Milter, "P_HDR_LEADSPC", 0)
        print("rc", rc, hex(opts[0]), hex(opts[1]), hex(self._actions), hex(self._protocol))
        return rc

    @Milter.nocallback
    def hello(self, name):
        print("never")
        return Milter.CONTINUE

    @Milter.noreply
    def header(self, name, value):
        print("header", repr(name), repr(value))
        return Milter.CONTINUE

    def body(self, chunk):
        return Milter.SKIP

    def eom(self):
        self.addheader("X-Kept", " space")
        return Milter.CONTINUE


Milter.factory = Negotiating
Milter.runmilter("negotiating", sys.argv[1])
