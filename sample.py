"""A complete mail filter, explained for somebody who has never seen one.

What a milter is
    A mail server (Sendmail, Postfix) that is told to use a filter connects to it over a socket for
    every SMTP session, and reports each thing that the client does as it does it: it connected, it
    said HELO, MAIL FROM, RCPT TO, this header line, that piece of the body, end of message. After
    each report the server waits for the filter's verdict, and passes it on to the client. At the
    end of the message, and only there, the filter may also change it: headers, body, recipients.

What this one does
    It logs every step with the number of the connection, refuses messages by a few rules on their
    headers, and takes the sting out of the rest: an attachment whose name says that it is a program
    is replaced by a warning, and scripts are cut out of HTML. What it has changed it keeps, as it
    was, in a file.

How to run it
    python sample.py --socket inet:8893@127.0.0.1

    Postfix, in main.cf:
        smtpd_milters = inet:127.0.0.1:8893
        milter_default_action = tempfail
    Sendmail, in sendmail.mc:
        INPUT_MAIL_FILTER(`sample', `S=inet:8893@127.0.0.1, F=T')

    Mind the spelling: Postfix writes HOST:PORT, Sendmail and this program write PORT@HOST.

    The files that it keeps are called *.defang and go to the directory for temporary files, which
    the environment variable TMPDIR names. Nobody but the filter's own user can read them.

Only what pymilter has, too, is used here, so the file runs unchanged on either library.
"""

import argparse
import io
import logging
import os
import re
import tempfile

import Milter
import mime

LOG = logging.getLogger("sample")

# The rules: the header's name in lower case, what must not be found in its value, and the text
# that the sender gets to read. They are an example, not advice. Bytes, as the values below are.
RULES = [
    ("subject", re.compile(rb"=\?(big5|iso-2022-jp)", re.IGNORECASE), "We cannot read that"),
    ("subject", re.compile(rb"adv[:.]", re.IGNORECASE), "No advertising here"),
    ("subject", re.compile(rb".*\$\$\$", re.DOTALL), "No get-rich-quick schemes here"),
    ("subject", re.compile(rb".*(XXX|!!!|FREE)", re.DOTALL), "Please do not shout"),
    ("subject", re.compile(rb".*viagra", re.IGNORECASE | re.DOTALL), "No pills here"),
    ("message-id", re.compile(rb".{0,3}$", re.DOTALL), "That is no Message-ID"),
    (
        "x-mailer",
        re.compile(rb".*(direct email|calypso|mail bomber)", re.IGNORECASE | re.DOTALL),
        "That mailer is not welcome",
    ),
]

# How much of a new body is handed over at once. The library would take any size; this much keeps
# the packets small.
PIECE = 8192


def complaint(name, value):
    """Return what RULES have against the header *name* (str): *value* (bytes), None for nothing."""
    for rule_name, pattern, text in RULES:
        # match() looks from the beginning on.
        if name.lower() == rule_name and pattern.match(value):
            return text
    return None


class sampleMilter(Milter.Base):
    """One object of this class is made for every connection from the mail server.

    The methods are called in the order of the SMTP dialogue:

        connect, hello, (envfrom, envrcpt..., header..., eoh, body..., eom)..., close

    where the part in brackets may repeat, since a client may send several messages in one session.
    Each returns its verdict: Milter.CONTINUE goes on to the next step, Milter.REJECT refuses for
    good (an SMTP code of 5xx), Milter.TEMPFAIL asks the client to try again later (4xx),
    Milter.ACCEPT lets the message pass without another look, Milter.DISCARD says yes to the client
    and throws the message away. Return one of them from every method, on every path.

    Leave out the methods that your filter does not need: the mail server is told so, and does not
    even send those steps. This one leaves out data (the client said DATA) and unknown (it said
    something that the mail server does not know).
    """

    def __init__(self):
        # A number for the log, different for each connection: many are open at the same time, and
        # their lines come mixed.
        self.id = Milter.uniqueID()
        # Who sent the message in hand, and whom the client has logged in as.
        self.sender = None
        self.user = None
        self.auth_type = None
        # A copy of the message in hand: None if there is no message right now. Then the file that
        # it lies in, if it does already, and how many bytes of body there were.
        self.copy = None
        self.path = None
        self.size = 0

    def log(self, *words):
        """Write one line to the log, with the number of this connection before it."""
        LOG.info("[%d] %s", self.id, " ".join(str(word) for word in words))

    # ---- The connection ----

    # noreply: this step never has an objection, so the mail server need not wait for an answer.
    # (An old mail server that insists on one gets it: the library knows.)
    @Milter.noreply
    def connect(self, hostname, family, hostaddr):
        # hostname: the client's name as the mail server found it in the DNS, "[192.0.2.1]" if there
        #     is none.
        # family, hostaddr: as in Python's socket module, (address, port) for IPv4, (address, port,
        #     flow, scope) for IPv6, a path for a local socket, None if unknown.
        # repr() wherever a text comes from outside: a log line stays one line, whatever is in it.
        self.log("connect from", repr(hostname), "at", hostaddr)
        return Milter.CONTINUE

    @Milter.noreply
    def hello(self, hostname):
        # Called again when the client says HELO or EHLO again.
        self.log("helo", repr(hostname))
        return Milter.CONTINUE

    # ---- The envelope ----

    # A macro is a fact that the mail server tells beside the step itself. With symlist it is asked
    # for exactly those that are named, at this step; without, it tells what it usually tells.
    @Milter.noreply
    @Milter.symlist("{auth_authen}")
    def envfrom(self, sender, *params):
        # sender: as the client gave it, "<bob@example.com>", and "<>" for a bounce.
        # params: what came after it, "SIZE=1000" for example.
        self.log("mail from", repr(sender), *map(repr, params))
        # This begins a message, so forget the last one: all that is known of a message is set here.
        self.forget_message()
        self.sender = sender
        self.size = 0
        # The copy is in memory to begin with. Most messages that are refused are refused for a
        # header, and need no file.
        self.copy = io.BytesIO()
        # The name that the client logged in with; None if it did not.
        self.user = self.getsymval("{auth_authen}")
        # And how. But this macro is not named above, so a mail server that goes by the list does
        # not tell it, and this is None even for a client that did log in. A trap: name them all.
        self.auth_type = self.getsymval("{auth_type}")
        if self.user:
            self.log("authenticated as", repr(self.user), "by", repr(self.auth_type))
        return Milter.CONTINUE

    def envrcpt(self, recipient, *params):
        # Once for each recipient. REJECT would refuse this one recipient, not the message; DISCARD
        # is always about the message.
        self.log("rcpt to", repr(recipient), *map(repr, params))
        if recipient.upper().startswith("<MAILER-DAEMON@"):
            # An answer to a bounce: nobody reads those.
            self.log("discarded: sent to a mailer daemon")
            # From here on, nothing more is heard of this message: no eom, no abort. So this is the
            # place to forget it.
            self.forget_message()
            return Milter.DISCARD
        return Milter.CONTINUE

    # ---- The message ----

    # As the library hands it over by default, value would be a str, and bytes that are not UTF-8
    # lone surrogates in it. Rules about bytes, and a true copy, are easier to write in bytes.
    @Milter.decode("bytes")
    def header(self, name, value):
        # Once for each header, in the order of the message. A long header comes as one, its lines
        # joined by a line feed and the blank or tab that the next line began with.
        if name.lower() in ("subject", "x-mailer"):
            self.log("header", f"{name}:", repr(value))
        text = complaint(name, value)
        if text is not None:
            self.log("refused:", text)
            # The text for the client: SMTP code, extended code (RFC 3463), then the words. It is
            # used when REJECT (for 5xx) or TEMPFAIL (for 4xx) is returned; without it the mail
            # server has words of its own. A percent sign must be doubled: 100%%.
            self.setreply("554", "5.7.1", text)
            self.forget_message()
            return Milter.REJECT
        self.keep(name.encode("utf-8", "surrogateescape") + b": " + value + b"\n")
        return Milter.CONTINUE

    def eoh(self):
        # The empty line between the headers and the body.
        if self.copy is None:
            # Headers of a message that never began: something is very wrong. Better later than
            # unfiltered.
            self.log("end of headers without a sender")
            return Milter.TEMPFAIL
        self.keep(b"\n")
        # The body may be large: it goes to a file. If the disk is full, that raises, and so may
        # each write; what becomes of the message then is said in main().
        descriptor, self.path = tempfile.mkstemp(suffix=".defang")
        headers = self.copy.getvalue()
        self.copy = open(descriptor, "w+b")  # noqa: SIM115 (it outlives this method)
        self.keep(headers)
        return Milter.CONTINUE

    def body(self, chunk):
        # A piece of the body, as bytes, at most 64 KiB of it, cut anywhere, lines ending in CR LF.
        # Not called for a message with an empty body.
        self.size += len(chunk)
        self.keep(chunk)
        return Milter.CONTINUE

    def eom(self):
        # End of message: the last chance to refuse it, and the only one to change it.
        # The mail server's own number for the message helps to find it in the server's log.
        self.log("end of message,", self.size, "bytes, queue id", self.getsymval("i"))
        if self.copy is None:
            return Milter.ACCEPT
        self.copy.seek(0)
        message = mime.message_from_file(self.copy)
        # What is done to a part stays in the body, and the body is sent anew. But the message
        # itself may be the bad attachment; then its headers change, and those need to be told.
        message.headerchange = self.change_header
        if not mime.defang(message, self.path):
            self.log("nothing to object to")
            self.forget_message()
            return Milter.ACCEPT

        self.log("defanged; the original is in", self.path)
        # All after the headers. The module writes line feeds, and mail servers want CR LF.
        text = message.as_bytes().partition(b"\n\n")[2].replace(b"\n", b"\r\n")
        # The first piece replaces the body, the others continue it. No other change in between:
        # that would confuse the mail server.
        for start in range(0, len(text), PIECE):
            self.replacebody(text[start : start + PIECE])
        # The file stays.
        self.path = None
        self.forget_message()
        return Milter.ACCEPT

    # ---- The end ----

    def abort(self):
        # The message in hand will not be finished: the client said RSET, or hung up, or another
        # filter refused it. The connection may go on with another message, so clean up what belongs
        # to the message, and only that. The return value does not matter here, nor in close.
        self.log("abort after", self.size, "bytes")
        self.forget_message()
        return Milter.CONTINUE

    def close(self):
        # The connection is over, the last thing that this object hears. It comes however the
        # connection ends, and it may be the only call: clean up whatever may still be there.
        self.log("close")
        self.forget_message()
        return Milter.CONTINUE

    # ---- Ours, not the library's ----

    def change_header(self, message, name, value):
        """Do to the message on its way what was done to *message*; *value* None: was deleted."""
        if value is not None:
            self.addheader(name, value)
            return
        # Headers of one name are numbered from 1; an empty value deletes. From the last to the
        # first, because some mail servers number the rest anew after each.
        for number in range(len(message.get_all(name, [])), 0, -1):
            self.chgheader(name, number, "")

    def keep(self, data):
        """Append *data* (bytes) to the copy of the message in hand."""
        if self.copy is not None:
            self.copy.write(data)

    def forget_message(self):
        """Drop the copy and its file, if there are any: after it, there is no message in hand."""
        if self.copy is not None:
            self.copy.close()
            self.copy = None
        if self.path is not None:
            os.remove(self.path)
            self.path = None


def main(argv=None):
    """Run the filter until SIGTERM, SIGINT or SIGHUP; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="An example of a mail filter.")
    parser.add_argument(
        "--socket",
        default="inet:8893@127.0.0.1",
        metavar="SPEC",
        help="where to listen: unix:PATH, inet:PORT@HOST or inet6:PORT@HOST (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=int,
        default=600,
        metavar="SECONDS",
        help="how long to wait for the mail server before giving a connection up "
        "(default: %(default)s)",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    # What makes the object for each new connection.
    Milter.factory = sampleMilter
    # What the filter may want to do to a message: the mail server is told at the beginning.
    Milter.set_flags(Milter.CHGBODY | Milter.CHGHDRS | Milter.ADDHDRS)
    # What becomes of the message if a method above raises: try again later. It is the default.
    Milter.set_exception_policy(Milter.TEMPFAIL)

    LOG.info("listening at %s", options.socket)
    # The name stands in replies for errors. This call returns when the filter is told to stop.
    Milter.runmilter("sample", options.socket, options.timeout)
    LOG.info("stopped")


if __name__ == "__main__":
    main()
