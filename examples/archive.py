#!/usr/bin/env python3
"""Keep a copy of each message, with its envelope, in a maildir.

    python examples/archive.py --socket inet:8898@127.0.0.1 --maildir /var/mail/archive

Make it the last filter of the mail server: it sees what those before it have left of a message, and
none that they refused. The copy is on the disk before the mail server is told to go on, so no
message is without one. It may be the other way round: if the mail server fails after that, the
client sends the message again, and there are two copies.

A copy is the message as it came, below headers with its envelope:

    X-Archive-Client: mail.example.net [192.0.2.1]
    X-Archive-From: <alice@example.net> SIZE=1000
    X-Archive-To: <bob@example.org> NOTIFY=NEVER
    X-Archive-To: <carol@example.org>
    X-Archive-Queue-Id: 4A5B6C0001
"""

import argparse
import logging
import mailbox
import os
import sys
import tempfile

import Milter

LOG = logging.getLogger("archive")

# Up to this size, in bytes, a message is kept in memory, a larger one in a file.
MEMORY = 1024 * 1024


class Archive(Milter.Base):
    """One connection from the mail server."""

    directory = "archive"
    # What becomes of a message that cannot be kept, because the disk is full for example. An
    # archive that the law asks for must be complete: then the client is to try again later.
    failure = Milter.TEMPFAIL

    def __init__(self):
        self.id = Milter.uniqueID()
        self.client = "unknown"
        self.copy = None

    @Milter.noreply
    def connect(self, hostname, family, hostaddr):
        address = hostaddr[0] if isinstance(hostaddr, tuple) else hostaddr
        self.client = f"{hostname} [{address}]"
        return Milter.CONTINUE

    # From here on there is no noreply: a disk may fill up, and then the answer matters. OSError is
    # an exception like any other, and answered as main() says.
    def envfrom(self, sender, *params):
        self.forget_message()
        self.copy = tempfile.SpooledTemporaryFile(MEMORY)  # noqa: SIM115 (it outlives this method)
        self.write("Client", self.client)
        self.write("From", sender, *params)
        return Milter.CONTINUE

    # A recipient that the mail server refuses itself is not told to filters.
    def envrcpt(self, recipient, *params):
        self.write("To", recipient, *params)
        return Milter.CONTINUE

    def data(self):
        # The mail server's number for the message. Postfix has none before this step.
        self.write("Queue-Id", str(self.getsymval("i")))
        return Milter.CONTINUE

    @Milter.decode("bytes")
    def header(self, name, value):
        self.copy.write(name.encode("utf-8", "surrogateescape") + b": " + value + b"\n")
        return Milter.CONTINUE

    def eoh(self):
        self.copy.write(b"\n")
        return Milter.CONTINUE

    def body(self, chunk):
        self.copy.write(chunk)
        return Milter.CONTINUE

    def eom(self):
        try:
            LOG.info("[%d] kept as %s", self.id, self.deliver())
        except (OSError, mailbox.Error) as error:
            LOG.error("[%d] not kept: %s", self.id, error)
            self.setreply("451", "4.3.0", "The message cannot be archived right now")
            return self.failure
        finally:
            self.forget_message()
        return Milter.CONTINUE

    def write(self, name, *words):
        """Write a header of ours to the copy."""
        line = f"X-Archive-{name}: {' '.join(words)}\n"
        self.copy.write(line.encode("utf-8", "surrogateescape"))

    def deliver(self):
        """Put the copy into the maildir; return its name there. Raises OSError, mailbox.Error."""
        self.copy.seek(0)
        # A Maildir object is not to be used from several threads at once; so each message has one,
        # which costs nothing. add() writes to tmp/, waits until that is on the disk, and only then
        # gives the file its name in new/. CR LF becomes LF, as is usual in a maildir.
        key = mailbox.Maildir(self.directory).add(self.copy)
        # The name must be on the disk, too.
        descriptor = os.open(os.path.join(self.directory, "new"), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return key

    def forget_message(self):
        """Drop the copy of the message in hand, if there is one."""
        if self.copy is not None:
            self.copy.close()
            self.copy = None

    def abort(self):
        self.forget_message()
        return Milter.CONTINUE

    def close(self):
        self.forget_message()
        return Milter.CONTINUE


def main(argv=None):
    """Run the filter until it is told to stop; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="Keep a copy of each message.")
    parser.add_argument("--socket", default="inet:8898@127.0.0.1", help="where to listen")
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument("--maildir", required=True, help="where to; made if it is not there")
    parser.add_argument(
        "--best-effort", action="store_true", help="let a message pass that cannot be kept"
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    # Open to nobody but the filter's own user. Maildir() would make them as well, but not in a
    # directory that is there already.
    try:
        for name in ("", "tmp", "new", "cur"):
            os.makedirs(os.path.join(options.maildir, name), 0o700, exist_ok=True)
    except OSError as error:
        parser.error(f"no maildir: {error}")
    Archive.directory = options.maildir
    if options.best_effort:
        Archive.failure = Milter.ACCEPT
    # The same choice for exceptions: the disk may be full before the end of the message.
    Milter.set_exception_policy(Archive.failure)
    Milter.factory = Archive
    # No set_flags(): the message stays as it is.
    Milter.runmilter("archive", options.socket, options.timeout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
