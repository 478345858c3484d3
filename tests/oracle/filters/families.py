"""Tells clients apart by their address family."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys
from socket import AF_INET, AF_INET6, AF_UNIX

import Milter


class Families(Milter.Base):
    def connect(self, host, family, hostaddr):
        if family == AF_INET:
            ip, port = hostaddr
            print("v4", ip, port)
        elif family == AF_INET6:
            print("v6", hostaddr[0], hostaddr[1], len(hostaddr))
        elif family == AF_UNIX:
            print("unix", hostaddr)
        else:
            print("unknown", family, hostaddr, host)
        if hostaddr is None:
            return Milter.ACCEPT
        return Milter.CONTINUE

    def eom(self):
        return Milter.CONTINUE


Milter.factory = Families
Milter.runmilter("families", sys.argv[1])
