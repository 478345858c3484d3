"""The classic: a lambda for a factory, too few flags, headers changed at the end."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys
import Milter


class Tagger(Milter.Base):
    def __init__(self):
        self.id = Milter.uniqueID()
        self.subject = None

    def log(self, *msg):
        print(self.id, *msg)

    @Milter.noreply
    def connect(self, IPname, family, hostaddr):
        self.ip = hostaddr and hostaddr[0]
        self.log("connect from", IPname, "at", hostaddr)
        return Milter.CONTINUE

    def envfrom(self, mailfrom, *params):
        self.log("mail from", mailfrom, params, self.getsymval("i"), self.getsymval("{mail_addr}"))
        self.subject = None
        self.fromparms = Milter.dictfromlist(params)
        self.log(sorted(self.fromparms.items()))
        return Milter.CONTINUE

    def header(self, name, hval):
        if name.lower() == "subject":
            self.subject = hval
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Tagged", "%d from %s" % (self.id, self.ip))
        if self.subject and "viagra" in self.subject:
            self.chgheader("Subject", 1, "[SPAM] " + self.subject)
        self.addheader("X-Top", "first", 0)
        return Milter.CONTINUE

    def close(self):
        self.log("close")
        return Milter.CONTINUE


Milter.factory = lambda: Tagger()
Milter.set_flags(Milter.ADDHDRS)
Milter.runmilter("tagger", sys.argv[1], 240)
print("shutdown")
