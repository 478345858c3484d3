"""A factory by functools.partial, a bound method for a factory, settings on the class."""

# Written as legacy filters are, in their style:
# ruff: noqa

import functools
import sys

import Milter


class Settled(Milter.Base):
    config = {}

    def __init__(self, limit, verbose=False):
        self.limit = limit
        self.verbose = verbose

    def envrcpt(self, t, *p):
        self.limit -= 1
        if self.limit < 0:
            self.setreply("452", "4.5.3", self.config["text"])
            return Milter.TEMPFAIL
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Left", str(self.limit))
        return Milter.CONTINUE


class Maker:
    made = 0

    def make(self):
        self.made += 1
        print("made", self.made)
        return functools.partial(Settled, 2, verbose=True)()


maker = Maker()
Milter.factory = maker.make
Settled.config["text"] = "too many"
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter(name="settled", socketname=sys.argv[1], timeout=100, rmsock=True)
