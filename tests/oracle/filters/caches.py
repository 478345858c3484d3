"""Keeps senders in Milter.cache and asks Milter.dynip about clients."""

# Written as legacy filters are, in their style:
# ruff: noqa

import sys

import Milter
from Milter.cache import AddrCache
from Milter.dynip import is_dynip
from Milter.pyip6 import inet_ntop, inet_pton

cache = AddrCache(renew=7, fname="auto.cache")


class Caching(Milter.Base):
    def connect(self, host, family, addr):
        if addr and len(addr) == 2:
            print("dynamic", is_dynip(host, addr[0]))
        if addr and len(addr) == 4:
            print(inet_ntop(inet_pton(addr[0])))
        return Milter.CONTINUE

    def envfrom(self, f, *p):
        known = f in cache
        print("known", f, known)
        if known:
            print("value", cache[f])
        cache[f] = None
        return Milter.CONTINUE

    def eom(self):
        return Milter.CONTINUE


cache.load("auto.cache")
Milter.factory = Caching
Milter.runmilter("caching", sys.argv[1])
