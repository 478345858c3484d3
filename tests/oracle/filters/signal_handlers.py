"""Handlers for SIGUSR1 and SIGHUP's relatives, and clean-up behind runmilter."""

# Written as legacy filters are, in their style:
# ruff: noqa

import os
import signal
import sys

import Milter

signal.signal(signal.SIGPIPE, signal.SIG_IGN)
signal.signal(signal.SIGALRM, lambda *a: print("alarm"))
with open("filter.pid", "w") as pid:
    pid.write(str(os.getpid()))


class Nothing(Milter.Base):
    def eom(self):
        return Milter.ACCEPT


Milter.factory = Nothing
try:
    Milter.runmilter("nothing", sys.argv[1], 240)
finally:
    os.remove("filter.pid")
    print("pid file removed")
sys.exit(4)
