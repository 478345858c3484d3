"""Greylists with Milter.greysql: an unknown triple is put off, one that comes again is not."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter
from Milter.greysql import Greylist


def check(ip, sender, recipient):
    # One for each check: SQLite has a handle stay in its thread, and a session of a mail server that
    # takes its time goes from thread to thread in libmilter, with its threading.local. Short times,
    # as the second attempt comes at once.
    grey = Greylist("grey.db", grey_time=0, grey_expire=6, grey_retain=36)
    try:
        return grey.check(ip, sender, recipient)
    finally:
        grey.close()


class Grey(Milter.Base):
    def connect(self, host, family, addr):
        self.ip = addr[0] if family and addr else "unknown"
        return Milter.CONTINUE

    def envfrom(self, f, *p):
        self.f = f
        return Milter.CONTINUE

    def envrcpt(self, t, *p):
        if not t.isascii() or not self.f.isascii():
            return Milter.CONTINUE
        rc = check(self.ip, self.f, t)
        print("rc", rc)
        if not rc:
            self.setreply("451", "4.7.1", "Greylisted: retry in %d minutes" % 10)
            return Milter.TEMPFAIL
        return Milter.CONTINUE

    def eom(self):
        return Milter.CONTINUE


Milter.factory = Grey
Milter.runmilter("grey", sys.argv[1])
