"""Goes by Milter.utils: lists of networks, addresses taken apart, a header parsed."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter
from Milter.utils import iniplist, parse_addr, parseaddr, parse_header

INTERNAL = ["127.0.0.1", "192.0.2.0/24", "2001:db8::/32"]


class Lists(Milter.Base):
    def connect(self, host, family, hostaddr):
        self.internal = bool(hostaddr) and len(hostaddr) > 1 and iniplist(hostaddr[0], INTERNAL)
        print("internal", self.internal)
        return Milter.CONTINUE

    def envfrom(self, f, *p):
        print("from", parse_addr(f))
        t = parse_addr(f)
        if len(t) == 2:
            t[1] = t[1].lower()
        self.canon = "@".join(t)
        return Milter.CONTINUE

    def envrcpt(self, to, *p):
        print("to", parse_addr(to), Milter.param2dict(p))
        return Milter.CONTINUE

    def header(self, name, val):
        if name.lower() in ("from", "subject"):
            print(name, repr(parse_header(val)))
        if name.lower() == "from":
            print(parseaddr(val))
        return Milter.CONTINUE

    def eom(self):
        if not self.internal and "spam" in self.canon:
            self.setreply("550", "5.7.1", "%s refused" % self.canon.replace("%", "%%"))
            return Milter.REJECT
        return Milter.CONTINUE


Milter.factory = Lists
Milter.runmilter("lists", sys.argv[1])
