"""Lets so many messages through at once: taken at MAIL, given back at the end or at abort."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys
import threading

import Milter

slots = threading.Semaphore(2)


class Limited(Milter.Base):
    held = False

    def envfrom(self, f, *p):
        if not self.held:
            self.held = slots.acquire(blocking=False)
        if not self.held:
            self.setreply("452", "4.3.1", "too many messages")
            return Milter.TEMPFAIL
        return Milter.CONTINUE

    def free(self):
        if self.held:
            self.held = False
            slots.release()

    def eom(self):
        self.free()
        return Milter.CONTINUE

    def abort(self):
        print("abort")
        self.free()
        return Milter.CONTINUE

    def close(self):
        self.free()
        print("slots", slots._value)
        return Milter.CONTINUE


Milter.factory = Limited
Milter.runmilter("limited", sys.argv[1])
