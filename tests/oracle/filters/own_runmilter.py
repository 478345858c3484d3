"""Carries a copy of runmilter of its own, as filters did that needed settings in between."""

# Written as legacy filters are, in their style:
# ruff: noqa

import os
import sys

import Milter
from Milter import milter


class Mine(Milter.Base):
    def hello(self, name):
        print("hello", name)
        return Milter.CONTINUE

    def envfrom(self, f, *p):
        print("from", f, p)
        return Milter.CONTINUE

    def envrcpt(self, t, *p):
        print("to", t, p)
        return Milter.CONTINUE

    def header(self, field, value):
        print(field, repr(value))
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Mine", "yes")
        return Milter.CONTINUE

    def unknown(self, cmd):
        print("unknown", cmd)
        return Milter.CONTINUE


def runmilter(name, socketname, timeout=0, rmsock=True):
    milter.set_connect_callback(Milter.connect_callback)
    milter.set_helo_callback(lambda ctx, host: ctx.getpriv().hello(host))
    milter.set_envfrom_callback(lambda ctx, *args: ctx.getpriv().envfrom_bytes(*args))
    milter.set_envrcpt_callback(lambda ctx, *args: ctx.getpriv().envrcpt_bytes(*args))
    milter.set_header_callback(lambda ctx, name, val: ctx.getpriv().header_bytes(name, val))
    milter.set_eoh_callback(lambda ctx: ctx.getpriv().eoh())
    milter.set_body_callback(lambda ctx, chunk: ctx.getpriv().body(chunk))
    milter.set_eom_callback(lambda ctx: ctx.getpriv().eom())
    milter.set_abort_callback(lambda ctx: ctx.getpriv().abort())
    milter.set_close_callback(Milter.close_callback)
    milter.setconn(socketname)
    if timeout > 0:
        milter.settimeout(timeout)
    ncb = Milter.negotiate_callback
    if Milter.getversion() < (1, 0, 1):
        ncb = None
    milter.register(
        name,
        data=lambda ctx: ctx.getpriv().data(),
        unknown=lambda ctx, cmd: ctx.getpriv().unknown(cmd),
        negotiate=ncb,
    )
    milter.opensocket(rmsock)
    os.chmod(socketname.partition(":")[2], 0o660)
    start_seq = Milter._seq
    try:
        milter.main()
    except milter.error:
        if start_seq == Milter._seq:
            raise
        raise milter.error("out of thread resources")


Milter.factory = Mine
Milter.set_flags(Milter.CHGBODY + Milter.CHGHDRS + Milter.ADDHDRS)
runmilter("own", sys.argv[1], 60)
print("end", oct(0o660))
