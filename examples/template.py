#!/usr/bin/env python3
"""A tour of the API: a filter to begin one of your own with.

It looks at every step, keeps what it learns in attributes, refuses a HELO without a dot, and at the
end parses the message, logs its attachments and sends a copy to one more recipient. Its log is
written by a process of its own, so that a slow disk never holds up the mail.

    python examples/template.py --socket inet:8894@127.0.0.1

Read sample.py first: it explains what a milter is, and each step. This one shows the rest.
"""

import argparse
import email
import email.policy
import io
import multiprocessing
import signal
import sys
import time

import Milter
from Milter.utils import parse_addr

# Where log lines go: a queue that the process of write_log() empties. None: nowhere, so that the
# class can be imported and tested without that process.
logq = None


class myMilter(Milter.Base):
    """One connection from the mail server."""

    # Who gets a copy of every message. On the class, so that main() can set it.
    spy = "<spy@example.com>"

    def __init__(self):
        self.id = Milter.uniqueID()
        # What connect() and hello() learn.
        self.IP = self.port = self.flow = self.scope = None
        self.IPname = None  # the client's name, as its PTR record has it
        self.receiver = None  # our mail server's name
        self.H = None  # the name that the client gave in HELO
        self.forget_message()

    def forget_message(self):
        """Begin anew: what envfrom() and the steps after it learn."""
        self.mailfrom = None
        self.mailparams = {}
        self.user = None
        self.recipients = []
        self.fp = None  # the message so far, a file of bytes

    # noreply: the mail server does not wait for an answer. Only for steps that never object.
    @Milter.noreply
    def connect(self, IPname, family, hostaddr):
        self.IPname = IPname
        # IPv4: (address, port). IPv6: (address, port, flow, scope). A local socket: its path. None:
        # the mail server does not know, which happens for mail that is submitted on the machine.
        if isinstance(hostaddr, tuple):
            self.IP, self.port = hostaddr[:2]
            self.flow, self.scope = (*hostaddr[2:4], None, None)[:2]
        # j is the mail server's own name, a macro that all of them have.
        self.receiver = self.getsymval("j")
        self.log("connect from", repr(IPname), "at", hostaddr)
        return Milter.CONTINUE

    def hello(self, heloname):
        self.H = heloname
        self.log("HELO", repr(heloname))
        if "." not in heloname:
            # Up to 32 lines may follow the two codes. What the client said is better not repeated
            # in them: a percent sign would have to be doubled, and a line may be too long.
            self.setreply("550", "5.7.1", "That is no name of a mail server.", "Use your full one.")
            return Milter.REJECT
        return Milter.CONTINUE

    def envfrom(self, mailfrom, *params):
        self.forget_message()
        self.mailfrom = mailfrom
        # ESMTP parameters: {"SIZE": "1000", "BODY": "8BITMIME"}.
        self.mailparams = Milter.dictfromlist(params)
        self.user = self.getsymval("{auth_authen}")
        self.log("mail from", repr(mailfrom), self.mailparams, "user", repr(self.user))
        # What we keep is a file in mbox format. Its first line has the sender without brackets.
        # parse_addr() takes those off, and a source route, and splits at the @.
        self.fp = io.BytesIO()
        sender = "@".join(parse_addr(mailfrom)) or "MAILER-DAEMON"
        line = f"From {sender} {time.ctime()}\n"
        self.fp.write(line.encode("utf-8", "surrogateescape"))
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, recipient, *params):
        self.recipients.append((recipient, Milter.dictfromlist(params)))
        self.log("rcpt to", repr(recipient))
        return Milter.CONTINUE

    # Bytes that are not UTF-8 come as lone surrogates, the way Python treats file names, and become
    # bytes again the same way. With @Milter.decode("bytes") the value would be bytes.
    @Milter.noreply
    def header(self, field, value):
        self.fp.write(f"{field}: {value}\n".encode("utf-8", "surrogateescape"))
        return Milter.CONTINUE

    @Milter.noreply
    def eoh(self):
        self.fp.write(b"\n")
        return Milter.CONTINUE

    @Milter.noreply
    def body(self, block):
        self.fp.write(block)
        return Milter.CONTINUE

    def eom(self):
        self.fp.seek(0)
        try:
            # policy.default gives the modern EmailMessage, with iter_attachments() and the like.
            message = email.message_from_binary_file(self.fp, policy=email.policy.default)
            for part in message.walk():
                if part.is_attachment():
                    self.log("attachment", part.get_content_type(), repr(part.get_filename()))
        except Exception as error:
            # What the parser makes of malformed headers is not always an answer. If the exception
            # left this method, the client would be told to try again later, in vain.
            self.log("not parsed:", repr(error))
        self.log("accepted, a copy goes to", self.spy)
        # Changes are possible here and nowhere else.
        self.addrcpt(self.spy)
        self.forget_message()
        return Milter.ACCEPT

    def close(self):
        # Always called, even where abort is, or no other step ever was.
        self.log("close")
        return Milter.CONTINUE

    def abort(self):
        # This message comes to nothing, but the connection goes on.
        self.log("abort")
        self.forget_message()
        return Milter.CONTINUE

    def log(self, *words):
        """Write a line to the log, if there is one."""
        if logq is not None:
            logq.put((self.id, time.time(), " ".join(str(word) for word in words)))


def write_log(queue):
    """Print the lines that come through *queue* until None comes. Runs as a process of its own."""
    # Ctrl-C reaches all processes of the terminal, and service managers tell all that they started
    # to end. This one is to end last, when it is told to.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number, when, text in iter(queue.get, None):
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        # Lone surrogates cannot be printed as they are.
        line = f"{stamp} [{number}] {text}".encode("utf-8", "backslashreplace").decode()
        print(line, flush=True)


def main(argv=None):
    """Run the filter until it is told to stop; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="A tour of the API.")
    parser.add_argument("--socket", default="inet:8894@127.0.0.1", help="where to listen")
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument("--spy", default=myMilter.spy, help="who gets a copy, as <ADDRESS>")
    options = parser.parse_args(argv)

    global logq
    logq = multiprocessing.Queue()
    writer = multiprocessing.Process(target=write_log, args=(logq,))
    writer.start()

    myMilter.spy = options.spy
    Milter.factory = myMilter
    # All that one may want to do; only ADDRCPT is used above.
    Milter.set_flags(
        Milter.CHGBODY | Milter.CHGHDRS | Milter.ADDHDRS | Milter.ADDRCPT | Milter.DELRCPT
    )
    try:
        Milter.runmilter("template", options.socket, options.timeout)
    finally:
        logq.put(None)
        writer.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
