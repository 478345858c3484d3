"""Writes each message to a temporary file, reads it again with mime, checks names and dumps it."""

# Written as legacy filters are, in their style:
# ruff: noqa

import os
import sys
import tempfile

import Milter
import mime


class Archive(Milter.Milter):
    def log(self, *msg):
        pass

    def envfrom(self, f, *p):
        self.tempname = tempfile.mktemp(".msg")
        self.fp = open(self.tempname, "w+b")
        return Milter.CONTINUE

    def header(self, name, val):
        self.fp.write(b"%s: %s\n" % (name.encode(), val.encode("utf-8", "surrogateescape")))
        return Milter.CONTINUE

    def eoh(self):
        self.fp.write(b"\n")
        return Milter.CONTINUE

    def body(self, chunk):
        self.fp.write(chunk.replace(b"\r\n", b"\n"))
        return Milter.CONTINUE

    def eom(self):
        self.fp.seek(0)
        msg = mime.message_from_file(self.fp)
        bad = []
        for part in msg.walk():
            for key, name in part.getnames():
                print("name", key, name)
                if name and name.lower().endswith((".exe", ".scr")):
                    bad.append(name)
        print("bad", bad, "size", os.path.getsize(self.tempname) > 10)
        if bad:
            self.setreply("554", "5.7.1", "attachment %s refused" % bad[0])
            return Milter.REJECT
        return Milter.CONTINUE

    def close(self):
        fp = getattr(self, "fp", None)
        if fp:
            fp.close()
            os.remove(self.tempname)
        return Milter.CONTINUE


if __name__ == "__main__":
    Milter.factory = Archive
    Milter.runmilter("archive", sys.argv[1], 300)
