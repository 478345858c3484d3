"""A filter for the tests of start and stop: says what happens to it, the same on both sides.

    python life.py SOCKET [handler|stop|twice|thread]

Prints a line before runmilter, and what runmilter returned.
"""

import os
import signal
import sys
import threading

import Milter


class Filter(Milter.Base):
    """A filter that stops itself at HELO, in mode "stop"."""

    def hello(self, hostname):
        if "stop" in sys.argv:
            threading.Thread(target=Milter.stop).start()
        return Milter.CONTINUE

    def abort(self):
        print("abort", flush=True)
        return Milter.CONTINUE

    def close(self):
        print("close", flush=True)
        return Milter.CONTINUE


def say(number, frame):
    """Handle a signal: say so."""
    print("handled", signal.Signals(number).name, flush=True)


def main():
    """Run."""
    if "handler" in sys.argv:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, say)
    if "thread" in sys.argv:
        # A thread that was there before libmilter blocked its signals.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    Milter.factory = Filter
    print("start", flush=True)
    for _ in range(2 if "twice" in sys.argv else 1):
        print("returned", Milter.runmilter("life", "unix:" + sys.argv[1], 30), flush=True)
    if "handler" in sys.argv:
        # Are the signals left blocked?
        os.kill(os.getpid(), signal.SIGTERM)
    print("end", flush=True)


main()
