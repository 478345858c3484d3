"""Collects the message in a BytesIO, parses it with mime and replaces the body in pieces."""

# Written as legacy filters are, in their style:
# ruff: noqa

import io
import sys

import Milter
import mime


class Collector(Milter.Base):
    def envfrom(self, f, *p):
        self.fp = io.BytesIO()
        self.canon_from = f
        return Milter.CONTINUE

    def header(self, name, hval):
        if self.fp:
            self.fp.write(("%s: %s\n" % (name, hval)).encode("utf-8", "surrogateescape"))
        return Milter.CONTINUE

    def eoh(self):
        self.fp.write(b"\n")
        return Milter.CONTINUE

    def body(self, chunk):
        self.fp.write(chunk)
        return Milter.CONTINUE

    def eom(self):
        self.fp.seek(0)
        msg = mime.message_from_file(self.fp)
        print(type(msg).__name__, msg.get_content_type(), msg.ismultipart(), msg.ismodified())
        for part in msg.walk():
            print("part", part.get_content_type(), part.getname())
        msg["X-Seen"] = "yes"
        print("modified", msg.ismodified())
        if "replace" in str(msg["subject"]):
            text = b"replaced line\r\n" * 1500
            for i in range(0, len(text), 8192):
                self.replacebody(text[i : i + 8192])
        return Milter.CONTINUE

    def abort(self):
        print("abort")
        self.fp = None
        return Milter.CONTINUE


Milter.factory = Collector
Milter.set_flags(Milter.CHGBODY)
Milter.runmilter("collector", sys.argv[1])
