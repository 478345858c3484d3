"""Reads its settings with Milter.config and listens where they say."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter
from Milter.config import MilterConfigParser

with open("configured.cfg", "w") as f:
    f.write("[milter]\nsocket = %s\ntimeout = 60\nname = configured\n" % sys.argv[1])
    f.write("blocked = bad.example, worse.example\n[flags]\nreject = 1\n")
cp = MilterConfigParser({"timeout": "600"})
cp.read(["missing.cfg", "configured.cfg"])
BLOCKED = cp.getlist("milter", "blocked")
print(BLOCKED, cp.getdefault("milter", "nothing", "default"), cp.getint("milter", "timeout"))


class Configured(Milter.Base):
    def hello(self, name):
        if name in BLOCKED and cp.getboolean("flags", "reject"):
            self.setreply("550", "5.7.1", "go away")
            return Milter.REJECT
        return Milter.CONTINUE

    def eom(self):
        return Milter.CONTINUE


Milter.factory = Configured
Milter.runmilter(
    cp.get("milter", "name"), cp.get("milter", "socket"), cp.getint("milter", "timeout")
)
