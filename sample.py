#!/usr/bin/env python3
"""A complete mail filter, explained for somebody who has never seen one.

What a milter is
    A mail server (Sendmail, Postfix) that is told to use a filter connects to it over a socket for
    every SMTP session, and reports each thing that the client does as it does it: it connected, it
    said HELO, MAIL FROM, RCPT TO, this header line, that piece of the body, end of message. After
    each report the server waits for the filter's verdict, and passes it on to the client. At the
    end of the message, and only there, the filter may also change it: headers, body, recipients.

What this one does
    It logs every step with the number of the connection, refuses a HELO that is no host name at
    all, refuses messages by a few rules on their headers, marks what passes in its Subject, and
    adds a header that says how many recipients and bytes it counted.

How to run it
    python sample.py --socket inet:8893@127.0.0.1

    Postfix, in main.cf:
        smtpd_milters = inet:127.0.0.1:8893
        milter_default_action = tempfail
    Sendmail, in sendmail.mc:
        INPUT_MAIL_FILTER(`sample', `S=inet:8893@127.0.0.1, F=T')

    Mind the spelling: Postfix writes HOST:PORT, Sendmail and this program write PORT@HOST.

Only what pymilter has, too, is used here, so the file runs unchanged on either library.
"""

import argparse
import email
import ipaddress
import logging
import re
import tempfile

import Milter

LOG = logging.getLogger("sample")

# The header that this filter adds, and the word that it puts before the Subject.
STAMP = "X-Sample-Milter"
MARK = "[checked]"

# A host name as HELO should give it: labels of letters, digits, hyphens and (not in the RFC, but
# in the wild) underscores, with dots between them. One label alone is let through, because
# programs on this very machine introduce themselves as "localhost".
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOSTNAME = re.compile(rf"{LABEL}(\.{LABEL})*\.?")

# The rules: the header's name in lower case, what must not be found in its value, and the text
# that the sender gets to read. They are an example, not advice.
RULES = [
    ("subject", re.compile(r"^\s*adv[:.]", re.IGNORECASE), "No advertising here"),
    ("subject", re.compile(r"\$\$\$"), "No get-rich-quick schemes here"),
    ("x-mailer", re.compile(r"mail bomber", re.IGNORECASE), "That mailer is not welcome"),
    ("message-id", re.compile(r"^.{0,3}$", re.DOTALL), "That is no Message-ID"),
]


def valid_helo(name):
    """Tell whether *name* (str) is a host name or an address literal (RFC 5321 section 4.1.3)."""
    if name.startswith("[") and name.endswith("]"):
        # "[192.0.2.1]" or "[IPv6:2001:db8::1]"
        literal = name[1:-1]
        try:
            if literal[:5].upper() == "IPV6:":
                ipaddress.IPv6Address(literal[5:])
            else:
                ipaddress.IPv4Address(literal)
        except ValueError:
            return False
        return True
    return len(name) <= 255 and HOSTNAME.fullmatch(name) is not None


def complaint(name, value):
    """Return what RULES have against the header *name*: *value* (both str), None for nothing."""
    for rule_name, pattern, text in RULES:
        if name.lower() == rule_name and pattern.search(value):
            return text
    return None


class sampleMilter(Milter.Base):
    """One object of this class is made for every connection from the mail server.

    The methods are called in the order of the SMTP dialogue:

        connect, hello, (envfrom, envrcpt..., data, header..., eoh, body..., eom)..., close

    where the part in brackets may repeat, since a client may send several messages in one session.
    Each returns its verdict: Milter.CONTINUE goes on to the next step, Milter.REJECT refuses for
    good (an SMTP code of 5xx), Milter.TEMPFAIL asks the client to try again later (4xx),
    Milter.ACCEPT lets the message pass without another look, Milter.DISCARD says yes to the client
    and throws the message away. Return one of them from every method, on every path.

    Leave out the methods that your filter does not need: the mail server is told so, and does not
    even send those steps.
    """

    def __init__(self):
        # A number for the log, different for each connection: many are open at the same time, and
        # their lines come mixed.
        self.id = Milter.uniqueID()
        # What is known of the message in hand. None: there is no message right now.
        self.copy = None

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
        self.log("connect from", repr(hostname), "at", hostaddr)
        return Milter.CONTINUE

    def hello(self, hostname):
        # Called again when the client says HELO or EHLO again.
        # %r and repr() wherever a text comes from outside: a log line stays one line, whatever
        # the client sends.
        self.log("helo", repr(hostname))
        if not valid_helo(hostname):
            # The text for the client: SMTP code, extended code (RFC 3463), then the words. It is
            # used when REJECT (for 5xx) or TEMPFAIL (for 4xx) is returned; without it the mail
            # server has words of its own. A percent sign must be doubled: 100%%.
            self.setreply("550", "5.7.1", "That is neither a host name nor an address literal")
            return Milter.REJECT
        return Milter.CONTINUE

    # ---- The envelope ----

    def envfrom(self, sender, *params):
        # sender: as the client gave it, "<bob@example.com>", and "<>" for a bounce.
        # params: what came after it, "SIZE=1000" for example.
        #
        # This begins a message, so forget the last one: all that is known of a message is set here.
        self.log("mail from", repr(sender), *params)
        self.forget_message()
        self.recipients = 0
        self.size = 0
        self.subjects = []
        self.forged = 0
        # A copy to look at in the end; in memory while it is small, then in a file.
        self.copy = tempfile.SpooledTemporaryFile(max_size=256 * 1024)  # noqa: SIM115 (outlives us)
        # A macro is a fact that the mail server tells beside the step itself. This one is the name
        # that the client logged in with; None if it did not, or if the server does not tell.
        user = self.getsymval("{auth_authen}")
        if user:
            self.log("authenticated as", repr(user))
        return Milter.CONTINUE

    def envrcpt(self, recipient, *params):
        # Once for each recipient. REJECT would refuse this one recipient, not the message.
        self.log("rcpt to", repr(recipient), *params)
        self.recipients += 1
        return Milter.CONTINUE

    def data(self):
        # The client said DATA: all recipients are known, the message itself comes now.
        self.log("data,", self.recipients, "recipients")
        return Milter.CONTINUE

    # ---- The message ----

    def header(self, name, value):
        # Once for each header, in the order of the message. A long header comes as one, its lines
        # joined by a line feed and the blank or tab that the next line began with. Bytes that are
        # not UTF-8 come as lone surrogates, the way Python treats file names, and go out the same.
        self.log("header", f"{name}:", repr(value))
        text = complaint(name, value)
        if text is not None:
            self.log("refused:", text)
            self.setreply("554", "5.7.1", text)
            # From here on, nothing more is heard of this message: no eom, no abort. So this is the
            # place to forget it.
            self.forget_message()
            return Milter.REJECT
        if name.lower() == "subject":
            self.subjects.append(value)
        if name.lower() == STAMP.lower():
            # Somebody else's stamp, or a forged one. It goes, but not now: changes are only
            # possible at the end.
            self.forged += 1
        self.keep(f"{name}: {value}\n".encode("utf-8", "surrogateescape"))
        return Milter.CONTINUE

    def eoh(self):
        # The empty line between the headers and the body.
        self.log("end of headers")
        self.keep(b"\n")
        return Milter.CONTINUE

    def body(self, chunk):
        # A piece of the body, as bytes, at most 64 KiB of it, cut anywhere, lines ending in CR LF.
        # Not called for a message with an empty body.
        self.log("body,", len(chunk), "bytes")
        self.size += len(chunk)
        self.keep(chunk)
        return Milter.CONTINUE

    def eom(self):
        # End of message: the last chance to refuse it, and the only one to change it.
        # The mail server's own number for the message helps to find it in the server's log.
        self.log("end of message, queue id", self.getsymval("i"))
        self.copy.seek(0)
        message = email.message_from_bytes(self.copy.read())
        parts = sum(1 for part in message.walk() if not part.is_multipart())
        self.log(self.recipients, "recipients,", self.size, "bytes,", parts, "parts")

        # Delete the stamps that came with the message. Headers of one name are numbered from 1; an
        # empty value deletes. From the last to the first, because some servers number the rest
        # anew after each.
        for number in range(self.forged, 0, -1):
            self.chgheader(STAMP, number, "")

        # Mark the subject. (A change to a signed header breaks a DKIM signature: a filter for
        # real use would rather not.)
        if self.subjects and not self.subjects[0].startswith(MARK):
            self.chgheader("Subject", 1, f"{MARK} {self.subjects[0]}")

        # Add ours.
        self.addheader(STAMP, f"connection {self.id}, {self.recipients} rcpt, {self.size} bytes")
        self.forget_message()
        return Milter.CONTINUE

    # ---- The end ----

    def abort(self):
        # The message in hand will not be finished: the client said RSET, or hung up, or another
        # filter refused it. The connection may go on with another message, so clean up what belongs
        # to the message, and only that. The return value does not matter here, nor in close.
        self.log("abort")
        self.forget_message()
        return Milter.CONTINUE

    def close(self):
        # The connection is over, the last thing that this object hears. It comes however the
        # connection ends, and it may be the only call: clean up whatever may still be there.
        self.log("close")
        self.forget_message()
        return Milter.CONTINUE

    # ---- Ours, not the library's ----

    def keep(self, data):
        """Append *data* (bytes) to the copy of the message in hand."""
        if self.copy is not None:
            self.copy.write(data)

    def forget_message(self):
        """Drop the copy, if there is one: after it, there is no message in hand."""
        if self.copy is not None:
            self.copy.close()
            self.copy = None


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
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS)
    # What becomes of the message if a method above raises: try again later. It is the default.
    Milter.set_exception_policy(Milter.TEMPFAIL)

    LOG.info("listening at %s", options.socket)
    # The name stands in replies for errors. This call returns when the filter is told to stop.
    Milter.runmilter("sample", options.socket, options.timeout)
    LOG.info("stopped")


if __name__ == "__main__":
    main()
