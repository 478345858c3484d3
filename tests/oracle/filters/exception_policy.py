"""A filter that trips over odd mail; its second argument is the exception policy's name."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter
import milter


class Odd(Milter.Base):
    def connect(self, host, family, addr):
        self.where = addr[0]
        return Milter.CONTINUE

    def hello(self, name):
        name.encode("ascii")
        return Milter.CONTINUE

    def envfrom(self, f, *p):
        self.domain = f.split("@")[1]
        return Milter.CONTINUE

    def header(self, name, value):
        if name == "Subject":
            value.encode("ascii")
        return Milter.CONTINUE

    def eom(self):
        if self.domain == "none.example>":
            return None
        return Milter.CONTINUE


milter.set_exception_policy(getattr(milter, sys.argv[2]))
Milter.factory = Odd
Milter.runmilter("odd filter", sys.argv[1])
