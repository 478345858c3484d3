"""Changes the envelope: recipients, sender, quarantine, discard."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter


class Redirects(Milter.Base):
    def envfrom(self, f, *p):
        self.f = f
        self.rcpts = []
        return Milter.CONTINUE

    def envrcpt(self, t, *p):
        self.rcpts.append(t)
        return Milter.DISCARD if t.startswith("<devnull") else Milter.CONTINUE

    def eom(self):
        for r in self.rcpts:
            if r.isascii():
                self.delrcpt(r)
        self.addrcpt("<archive@example.org>")
        self.addrcpt("<other@example.org>", "NOTIFY=NEVER")
        self.chgfrom("<>" if "spam" in self.f else "<bounce@example.org>")
        self.chgfrom("<x@example.org>", "SIZE=100")
        if "spam" in self.f:
            self.quarantine("looks like spam")
        return Milter.CONTINUE


Milter.factory = Redirects
Milter.set_flags(Milter.ADDRCPT | Milter.DELRCPT | Milter.CHGFROM)
Milter.runmilter("redirects", sys.argv[1])
