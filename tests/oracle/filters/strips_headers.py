"""Deletes headers by number, counting down, and puts others in their place."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter


class Strips(Milter.Base):
    def envfrom(self, f, *p):
        self.received = 0
        self.names = []
        return Milter.CONTINUE

    def header(self, name, value):
        if name.lower() == "received":
            self.received += 1
        self.names.append(name)
        return Milter.CONTINUE

    def eom(self):
        for i in range(self.received, -1, -1):
            self.chgheader("Received", i, "")
        self.chgheader("X-Spam", 1, None)
        self.chgheader("Subject", 1, "folded\r\n\tvalue")
        self.addheader("X-Place", "top", 0)
        self.addheader("X-Place", "second", 1)
        self.addheader("X-Place", "end", -1)
        print(self.names)
        return Milter.CONTINUE


Milter.factory = Strips
Milter.set_flags(Milter.CHGHDRS | Milter.ADDHDRS)
Milter.runmilter("strips", sys.argv[1], 600, True)
