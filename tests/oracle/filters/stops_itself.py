"""Runs in a thread that is not the main one, and is stopped by Milter.stop()."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys
import threading

import Milter

enough = threading.Event()


class Few(Milter.Base):
    def envfrom(self, f, *p):
        if "spam" in f:
            enough.set()
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Few", "1")
        return Milter.CONTINUE


def serve():
    Milter.factory = Few
    Milter.set_flags(Milter.ADDHDRS)
    Milter.runmilter("few", sys.argv[1])
    print("served")


server = threading.Thread(target=serve)
server.start()
enough.wait(60)
sys.stdin.readline()
Milter.stop()
server.join()
print("joined")
