"""Keeps a counter in threading.local from callback to callback, one connection at a time."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys
import threading

import Milter

local = threading.local()


class Local(Milter.Base):
    def envfrom(self, f, *p):
        local.sender = f
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Sender", getattr(local, "sender", "none"))
        return Milter.CONTINUE


Milter.factory = Local
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("locals", sys.argv[1])
