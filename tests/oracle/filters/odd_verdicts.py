"""Returns verdicts in places where they make little sense."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter


class Odd(Milter.Base):
    def connect(self, host, family, addr):
        return Milter.REJECT if host == "unknown" else Milter.CONTINUE

    def hello(self, name):
        return Milter.ACCEPT if name == "trusted" else Milter.CONTINUE

    def data(self):
        return Milter.CONTINUE

    def eoh(self):
        return Milter.ACCEPT if self.flag else Milter.CONTINUE

    def envfrom(self, f, *p):
        self.flag = "spam" in f
        if "later" in f:
            return Milter.TEMPFAIL
        return Milter.CONTINUE

    def body(self, chunk):
        return Milter.SKIP

    def eom(self):
        return Milter.DISCARD

    def abort(self):
        print("abort")
        return Milter.REJECT

    def close(self):
        print("close")
        return Milter.TEMPFAIL


Milter.factory = Odd
Milter.runmilter("odd", sys.argv[1])
