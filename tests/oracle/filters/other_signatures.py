"""Overrides actions with signatures of its own, and keeps odd attributes on the object."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter


class Own(Milter.Base):
    def __init__(self):
        self.data = {}
        self.unknown = "an attribute"
        self.chunks = []

    def chgheader(self, field, value, idx=1):
        print("chgheader", field, value, idx)
        return super().chgheader(field, idx, value)

    def addheader(self, field, *values):
        for value in values:
            super().addheader(field, value)

    def delrcpt(self, rcpts):
        for r in rcpts:
            Milter.Base.delrcpt(self, r)

    def replacebody(self):
        super().replacebody(b"".join(self.chunks).upper())

    def envfrom(self, f, *p):
        self.rcpts = []
        self.chunks = []
        return Milter.CONTINUE

    def envrcpt(self, t, *p):
        self.rcpts.append(t)
        return Milter.CONTINUE

    def body(self, chunk):
        self.chunks.append(chunk)
        return Milter.CONTINUE

    def eom(self):
        self.chgheader("Subject", "changed")
        self.addheader("X-Two", "1", "2")
        if len(self.rcpts) > 1:
            self.delrcpt(self.rcpts[1:])
        self.replacebody()
        return Milter.ACCEPT


Milter.factory = Own
Milter.set_flags(Milter.CHGHDRS)
Milter.runmilter("own", sys.argv[1])
