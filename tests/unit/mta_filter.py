"""A real filter for the tests of Milter.mta; runs on our package and on pymilter alike.

    python mta_filter.py SOCKET KIND

What it does with a connection it reads from the client's host name: STEP-VERDICT, then a dot. KIND
is the class that serves.
"""

import sys

import Milter


class Plain(Milter.Base):
    """Every step is wanted and answered."""

    def __init__(self):
        self.todo = ("", "")
        self.seen = []

    def connect(self, name, family, address):
        first, _, second = name.partition(".")[0].partition("-")
        self.todo = (first, second)
        return self.say("connect")

    def say(self, step):
        if self.todo[0] != step:
            return Milter.CONTINUE
        if self.todo[1] == "REPLY":
            self.setreply("554", "5.7.1", "100%% no")
            return Milter.REJECT
        if self.todo[1] == "LINES":
            self.setreply("451", "4.3.0", "not", "now")
            return Milter.TEMPFAIL
        return getattr(Milter, self.todo[1])

    def hello(self, name):
        return self.say("helo")

    def envfrom(self, sender, *params):
        self.seen = []
        return self.say("mail")

    def envrcpt(self, recipient, *params):
        return self.say("rcpt")

    def data(self):
        return self.say("data")

    def header(self, name, value):
        self.seen.append(f"{name}:{value}".replace("\n", "|"))
        return self.say("header")

    def eoh(self):
        return self.say("eoh")

    def body(self, chunk):
        return self.say("body")

    def eom(self):
        if self.todo[0] == "modify":
            self.modify()
        return self.say("eom")

    def modify(self):
        self.progress()
        self.addheader("X-Added", "one")
        self.addheader("X-First", "two", 0)
        self.chgheader("Subject", 1, "three\n\tfolded")
        self.chgheader("X-Gone", 1, "")
        self.chgheader("X-None", 5, None)
        self.addrcpt("<added@example.net>")
        self.addrcpt("<par@example.net>", "NOTIFY=NEVER")
        self.delrcpt("<c@d.example>")
        self.chgfrom("<new@example.org>")
        self.chgfrom("<newer@example.org>", "RET=HDRS")
        self.replacebody(b"x" * 65535 + b"y\r\n")
        self.quarantine("why not")
        self.progress()

    def unknown(self, command):
        return Milter.CONTINUE

    def abort(self):
        return Milter.CONTINUE

    def close(self):
        return Milter.CONTINUE


class Lists(Plain):
    """Asks for macros of its own choice, and says which it got."""

    def negotiate(self, options):
        result = super().negotiate(options)
        self._ctx.setsymlist(Milter.M_ENVFROM, "{mail_addr} j")
        self._ctx.setsymlist(Milter.M_EOM, "i")
        self._ctx.setsymlist(Milter.M_EOH, "i")
        return result

    def envfrom(self, sender, *params):
        self.seen = [self.getsymval(name) for name in ("{mail_addr}", "j", "{mail_host}", "v")]
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Macros", repr([*self.seen, self.getsymval("i")]))
        return Milter.CONTINUE


@Milter.header_leading_space
@Milter.rejected_recipients
class Extras(Plain):
    """Wants blanks before values, and to hear of rejected recipients."""

    def envrcpt(self, recipient, *params):
        if self.getsymval("{rcpt_mailer}") == "error":
            self.rejected = [recipient, *map(self.getsymval, ("{rcpt_host}", "{rcpt_addr}"))]
            return Milter.REJECT
        self.rejected = []
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Seen", " " + repr(self.seen))
        self.addheader("X-Rejected", "tight:" + repr(self.rejected))
        return Milter.CONTINUE


class NoReply(Plain):
    """Answers nothing but the end."""

    connect = Milter.noreply(Plain.connect)
    hello = Milter.noreply(Plain.hello)
    envfrom = Milter.noreply(Plain.envfrom)
    envrcpt = Milter.noreply(Plain.envrcpt)
    data = Milter.noreply(Plain.data)
    header = Milter.noreply(Plain.header)
    eoh = Milter.noreply(Plain.eoh)
    body = Milter.noreply(Plain.body)
    unknown = Milter.noreply(Plain.unknown)


class NoCallback(Milter.Base):
    """Wants nothing but the end."""

    def eom(self):
        self.addheader("X-End", "seen")
        return Milter.CONTINUE


def main():
    """Serve until a signal."""
    path, kind = sys.argv[1:]
    Milter.factory = {
        "plain": Plain,
        "lists": Lists,
        "extras": Extras,
        "noreply": NoReply,
        "nocallback": NoCallback,
    }[kind]
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS)
    Milter.runmilter("mtatest", path, 60)


if __name__ == "__main__":
    main()
