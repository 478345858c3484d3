"""The filter in Python, one and the same for this library and for pymilter on libmilter.

    python filter.py SOCKET WORKLOAD

How this library waits is chosen from outside, by MILTER_THREADS and MILTER_WORKERS, so that not a
line here differs between the two.
"""

# ruff: noqa: D102, D107 - the callbacks are what the class says

import sys
import time

import Milter

SOCKET, WORKLOAD = sys.argv[1:]

# What can be left unanswered is, in the workload "noreply"; elsewhere the decorator does nothing.
quiet = Milter.noreply if WORKLOAD == "noreply" else lambda callback: callback


class Filter(Milter.Base):
    """Overrides every callback, looks at what it is given, adds one header."""

    def __init__(self):
        self.seen = 0

    @quiet
    def connect(self, hostname, family, hostaddr):
        self.seen += len(hostname)
        return Milter.CONTINUE

    @quiet
    def hello(self, hostname):
        self.seen += len(hostname)
        return Milter.REJECT if WORKLOAD == "reject" else Milter.CONTINUE

    @quiet
    def envfrom(self, sender, *params):
        self.seen += len(sender)
        return Milter.CONTINUE

    @quiet
    def envrcpt(self, recipient, *params):
        self.seen += len(recipient)
        return Milter.CONTINUE

    @quiet
    def data(self):
        return Milter.CONTINUE

    @quiet
    def header(self, name, value):
        self.seen += len(name) + len(value)
        return Milter.CONTINUE

    @quiet
    def eoh(self):
        return Milter.CONTINUE

    @quiet
    def body(self, chunk):
        self.seen += len(chunk)
        return Milter.CONTINUE

    @quiet
    def unknown(self, command):
        return Milter.CONTINUE

    def eom(self):
        if WORKLOAD == "block":
            time.sleep(0.02)
        elif WORKLOAD == "busy":
            # Some milliseconds of the interpreter's own work, so that the filter is the limit.
            for number in range(50_000):
                self.seen += number
        self.addheader("X-Filter", self.getsymval("i") or "-")
        return Milter.CONTINUE

    def abort(self):
        return Milter.CONTINUE

    def close(self):
        return Milter.CONTINUE


if __name__ == "__main__":
    Milter.factory = Filter
    Milter.set_flags(Milter.ADDHDRS)
    Milter.runmilter("bench", SOCKET, 240)
