"""Sets replies in every way."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter
from milter import CONTINUE, REJECT, TEMPFAIL


class Replies(Milter.Base):
    def hello(self, name):
        self.helo = name
        return CONTINUE

    def envfrom(self, f, *p):
        try:
            self.setreply("550", "5.7.1", "lone % sign")
        except ValueError as x:
            print("ValueError", x)
        for bad in (("250", "2.0.0", "x"), ("550", "4.7.1", "x"), ("abc", None, "x")):
            try:
                self.setreply(*bad)
                print("taken", bad)
            except Exception as x:
                print(type(x).__name__, bad)
        if "spam" in f:
            self.setreply("554", "5.7.0", "100%% spam", "line 2", "line 3", "line 4", "line 5")
            return REJECT
        return CONTINUE

    def envrcpt(self, t, *p):
        if t.startswith("<late"):
            self.setreply("450", None, "later")
            return TEMPFAIL
        if t.startswith("<spamtrap"):
            return REJECT
        return CONTINUE

    def eom(self):
        self.setreply("571", "5.7.1", "Spam detected")
        return REJECT


Milter.factory = Replies
Milter.runmilter("replies", sys.argv[1])
