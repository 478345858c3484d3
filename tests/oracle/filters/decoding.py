"""Asks for bytes here and for replacement characters there."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter


class Decoding(Milter.Base):
    @Milter.decode("bytes")
    def envfrom(self, f, *p):
        print("from", f, p)
        return Milter.CONTINUE

    def envrcpt(self, t, *p):
        print("to", ascii(t), p)
        return Milter.CONTINUE

    @Milter.decode("replace")
    def header(self, name, value):
        print("header", ascii(name), ascii(value))
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Umlaut", "\xfc\n\tfolded")
        return Milter.CONTINUE


class Bytes(Decoding):
    @Milter.decode("bytes")
    def header(self, name, value):
        print("header", ascii(name), value)
        return Milter.CONTINUE


Milter.factory = Bytes
Milter.set_flags(Milter.ADDHDRS)
print(Decoding.header is not Bytes.header)
Milter.runmilter("decoding", sys.argv[1])
