"""Knows nothing of the package: callbacks on the module `milter`, a dict for each connection."""

# Written as legacy filters are, in their style:
# ruff: noqa

import milter
import sys


def connect(ctx, host, family, addr):
    ctx.setpriv({"host": host, "addr": addr, "rcpts": []})
    print("connect", repr(host), family, addr)
    return milter.CONTINUE


def helo(ctx, name):
    ctx.getpriv()["helo"] = name
    return milter.CONTINUE


def envfrom(ctx, f, *params):
    print("from", f, params)
    ctx.getpriv()["rcpts"] = []
    return milter.CONTINUE


def envrcpt(ctx, t, *params):
    if t.startswith(b"<spamtrap"):
        ctx.setreply("550", "5.7.1", "no such user", "really")
        return milter.REJECT
    ctx.getpriv()["rcpts"].append(t)
    return milter.CONTINUE


def header(ctx, name, value):
    print("header", repr(name), repr(value))
    return milter.CONTINUE


def eoh(ctx):
    return milter.CONTINUE


def body(ctx, chunk):
    print("body", type(chunk).__name__, len(chunk))
    return milter.CONTINUE


def eom(ctx):
    priv = ctx.getpriv()
    ctx.addheader("X-Rcpts", str(len(priv["rcpts"])))
    ctx.progress()
    return milter.ACCEPT


def abort(ctx):
    print("abort")
    return milter.CONTINUE


def close(ctx):
    print("close", ctx.getpriv() is not None)
    ctx.setpriv(None)
    return milter.CONTINUE


milter.set_flags(milter.ADDHDRS | milter.CHGHDRS)
milter.set_connect_callback(connect)
milter.set_helo_callback(helo)
milter.set_envfrom_callback(envfrom)
milter.set_envrcpt_callback(envrcpt)
milter.set_header_callback(header)
milter.set_eoh_callback(eoh)
milter.set_body_callback(body)
milter.set_eom_callback(eom)
milter.set_abort_callback(abort)
milter.set_close_callback(close)
milter.setconn(sys.argv[1])
milter.register("moduleonly", data=lambda ctx: milter.CONTINUE)
milter.opensocket(True)
print("running")
milter.main()
print("done", milter.getdiag()[0] > 0)
