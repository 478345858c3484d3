"""A filter as they were written before there were types: mypy has nothing to say about it."""

import io
import os

import Milter
import milter
import mime
from Milter.utils import iniplist, parse_addr, parseaddr


class oldMilter(Milter.Milter):
    """Attributes come and go, signatures are one's own."""

    def __init__(self):
        self.fp = None
        self.data = {}

    def log(self, *msg):
        """Log in another way."""
        print(self.id, *msg)

    def connect(self, hostname, unused, hostaddr):
        """Look at the address without a question."""
        self.id = Milter.uniqueID()
        self.internal = iniplist(hostaddr[0], ["10.0.0.0/8"])
        return Milter.CONTINUE

    def envfrom(self, f, *str):
        """Shadow a builtin."""
        self.fp = io.BytesIO()
        self.user = parse_addr(f)[0]
        self.param = Milter.param2dict(str)
        return Milter.CONTINUE

    def header(self, name, val):
        """Keep it."""
        self.fp.write(b"%s: %s\n" % (name.encode(), val.encode()))
        if name.lower() == "from":
            self.sender = parseaddr(val)[1]
        return Milter.CONTINUE

    def chgheader(self, field, value, idx=1):
        """Take the arguments in another order."""
        Milter.Milter.chgheader(self, field, idx, value)

    def eom(self):
        """Defang."""
        self.fp.seek(0)
        msg = mime.message_from_file(self.fp)
        msg.headerchange = self._headerchange
        if not mime.defang(msg, os.devnull):
            return Milter.ACCEPT
        out = io.BytesIO()
        msg.dump(out)
        self.replacebody(out.getvalue())
        return Milter.ACCEPT

    def _headerchange(self, msg, name, value):
        if value:
            self.addheader(name, value)
        else:
            self.chgheader(name, "")


if __name__ == "__main__":
    Milter.factory = oldMilter
    Milter.set_flags(Milter.CHGBODY + Milter.CHGHDRS)
    milter.set_exception_policy(milter.ACCEPT)
    Milter.runmilter("old", "/tmp/oldmilter.sock", 240)
