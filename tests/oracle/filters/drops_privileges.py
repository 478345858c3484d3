"""Sets the umask, opens the socket, then gives up its privileges, then serves."""

# Written as legacy filters are, in their style:
# ruff: noqa

import os
import stat
import sys

import Milter
from Milter import milter


class Plain(Milter.Base):
    def envfrom(self, f, *p):
        self.addheader_at_end = os.getuid() == os.geteuid()
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-Same-User", str(self.addheader_at_end))
        return Milter.CONTINUE


os.umask(0o017)
Milter.factory = Plain
Milter.set_flags(Milter.ADDHDRS)
path = sys.argv[1].partition(":")[2]
milter.set_connect_callback(Milter.connect_callback)
milter.set_envfrom_callback(lambda ctx, *a: ctx.getpriv().envfrom_bytes(*a))
milter.set_eom_callback(lambda ctx: ctx.getpriv().eom())
milter.set_close_callback(Milter.close_callback)
milter.setconn(sys.argv[1])
milter.register("dropping")
milter.opensocket(True)
print(oct(stat.S_IMODE(os.stat(path).st_mode)))
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    print("dropped", os.getuid(), os.getgid())
milter.main()
