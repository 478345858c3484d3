"""Overrides _setctx to count connections, and looks at its context's private object."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter

alive = []


class Counting(Milter.Base):
    def _setctx(self, ctx):
        if ctx is not None:
            alive.append(id(self))
        else:
            alive.remove(id(self))
        super()._setctx(ctx)

    def connect(self, host, family, addr):
        print("private", self._ctx.getpriv() is self, len(alive))
        return Milter.CONTINUE

    def eom(self):
        self._ctx.addheader("X-Direct", "ctx")
        print("sym", self._ctx.getsymval("i"), self.getsymval("no such"))
        return Milter.CONTINUE

    def close(self):
        print("close", len(alive))
        return Milter.CONTINUE


Milter.factory = Counting
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("counting", sys.argv[1])
print("left", len(alive))
