#!/usr/bin/env python3
"""Check SPF and DKIM, and write down what came out, in an Authentication-Results header (RFC 8601).

Nothing is refused here: programs behind this one, a spam filter or the reader's, go by the header.
Which is why a header that a sender has put in to look like ours is taken out first.

    pip install "pymilter-cffi[examples]"
    python examples/auth_results.py --socket inet:8896@127.0.0.1 --authserv-id mx.example.org

The DNS is asked in eom, which then takes as long as the DNS does: a callback may wait, others go on
meanwhile. With the pool, give it as many threads as messages may wait at once: MILTER_THREADS=50.
"""

import argparse
import logging
import re
import socket
import sys

import Milter

try:
    import dkim
    import dns.exception
    import dns.resolver
    import spf
except ImportError as error:
    raise ImportError(f'{error}: pip install "pymilter-cffi[examples]"') from None

LOG = logging.getLogger("auth_results")

# More signatures than this are not looked at: each one costs a question to the DNS.
SIGNATURES = 5

# What may stand in the header without quotes: a word, or an address.
ATOM = r"[\w+=-]+"
HARMLESS = re.compile(rf"[\w.+-]+|({ATOM}(\.{ATOM})*)?@[\w.-]+", re.ASCII)

# A word, or a quoted string.
FIRST = re.compile(r'([^\s()<>@,;:\\"/\[\]?=]+)|"((?:[^"\\]|\\.)*)"', re.DOTALL)


class Resolver:
    """The one place where the DNS is asked. Tests give the filter another one."""

    def __init__(self, nameserver=None, timeout=5.0):
        """Ask *nameserver* ("ADDRESS" or "ADDRESS@PORT"), by default those of this machine."""
        self.resolver = dns.resolver.Resolver(configure=nameserver is None)
        if nameserver is not None:
            address, _, port = nameserver.partition("@")
            self.resolver.nameservers = [address]
            self.resolver.port = int(port or 53)
        self.resolver.cache = dns.resolver.LRUCache()
        self.timeout = timeout

    def __call__(self, name, rrtype, timeout=None):
        """Return the records of *rrtype* at *name*, [] if there are none.

        A and AAAA: addresses; MX: pairs of preference and name; PTR: names; TXT: tuples of bytes.
        *timeout*: seconds. Raises OSError if the DNS cannot tell right now.
        """
        lifetime = min(timeout or self.timeout, self.timeout)
        try:
            answer = self.resolver.resolve(name, rrtype, lifetime=lifetime, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.resolver.LifetimeTimeout, dns.resolver.NoNameservers) as error:
            raise OSError(f"DNS: {name} {rrtype}: {error}") from error
        except (dns.exception.DNSException, UnicodeError):
            return []  # that cannot be a name
        if rrtype in ("A", "AAAA"):
            return [record.address for record in answer]
        if rrtype == "MX":
            return [(record.preference, record.exchange.to_text(True)) for record in answer]
        if rrtype == "PTR":
            return [record.target.to_text(True) for record in answer]
        return [record.strings for record in answer]


# Whom to ask; main() sets it.
lookup = None


def lookup_for_spf(name, rrtype, strict=True, timeout=None):
    """Look up records as pyspf wants them."""
    try:
        return [((name, rrtype), data) for data in lookup(name, rrtype, timeout)]
    except OSError as error:
        raise spf.TempError(str(error)) from error


# pyspf has one function for the whole process.
spf.DNSLookup = lookup_for_spf


class NoKey(Exception):
    """There is no key for a signature."""


def lookup_for_dkim(name, timeout=None):
    """Look up a key as dkimpy wants it."""
    # Neither OSError nor NoKey is an exception that dkimpy takes for a bad signature.
    records = lookup(name.decode("ascii", "replace").rstrip("."), "TXT", timeout)
    if not records:
        raise NoKey(name)
    return b"".join(records[0])


def value(text):
    """Write *text* as a value: as it is if it is harmless, else as a quoted string."""
    # A sender's address may hold anything, even "; dkim=pass".
    if HARMLESS.fullmatch(text):
        return text
    text = re.sub(r"[^ -~]", "?", text)
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def check_spf(ip, sender, helo):
    """Return the result for *sender* (without brackets), as it goes into the header."""
    try:
        # timeout: for one look-up; querytime: for all of them. Seconds.
        result = spf.query(ip, sender, helo, timeout=10, querytime=20).check()[0]
    except Exception as error:
        LOG.info("SPF for %r: %r", sender, error)
        result = "permerror"
    if sender:
        return f"spf={result} smtp.mailfrom={value(sender)}"
    return f"spf={result} smtp.helo={value(helo)}"


def check_dkim(message):
    """Return the results for all signatures of *message* (bytes), as they go into the header."""
    try:
        verifier = dkim.DKIM(message, timeout=5)
    except dkim.DKIMException as error:
        LOG.info("DKIM: %s", error)
        return ["dkim=permerror"]
    count = sum(1 for name, _ in verifier.headers if name.lower() == b"dkim-signature")
    results = []
    for number in range(min(count, SIGNATURES)):
        verifier.signature_fields = {}
        try:
            result = "pass" if verifier.verify(number, lookup_for_dkim) else "fail"
        except dkim.ValidationError:
            result = "fail"  # the body has changed, it has expired, its algorithm is unknown, ...
        except OSError as error:
            LOG.info("DKIM: %s", error)
            result = "temperror"
        except NoKey:
            result = "permerror"
        except Exception as error:
            LOG.info("DKIM: %r", error)
            result = "neutral"  # it makes no sense
        line = f"dkim={result}"
        for tag in ("d", "s"):
            if tag.encode() in verifier.signature_fields:
                line += f" header.{tag}=" + value(
                    verifier.signature_fields[tag.encode()].decode("ascii", "replace")
                )
        results.append(line)
    return results or ["dkim=none"]


def claimed_id(text):
    """Return who claims to have written the Authentication-Results *text*, in lower case.

    It stands first, a word or a quoted string, behind any number of blanks and comments (RFC 8601
    section 2.2). None: it cannot be made out.
    """
    depth = at = 0
    while at < len(text) and (depth or text[at].isspace() or text[at] == "("):
        if text[at] == "\\":
            at += 1  # and what follows it
        elif text[at] in "()":
            depth += 1 if text[at] == "(" else -1
        at += 1
    match = FIRST.match(text, at)
    if match is None:
        return None
    word = match[1] or re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
    return word.lower().rstrip(".")


# With the blank that stands behind the colon: DKIM signatures may cover it.
@Milter.header_leading_space
class AuthResults(Milter.Base):
    """One connection from the mail server."""

    authserv_id = "localhost"

    def __init__(self):
        self.id = Milter.uniqueID()
        self.ip = None
        self.helo = ""

    @Milter.noreply
    def connect(self, hostname, family, hostaddr):
        if family in (socket.AF_INET, socket.AF_INET6):
            self.ip = hostaddr[0]
        # Not every mail server can do that.
        self.blank = b"" if self._protocol & Milter.P_HDR_LEADSPC else b" "
        return Milter.CONTINUE

    @Milter.noreply
    def hello(self, hostname):
        self.helo = hostname
        return Milter.CONTINUE

    @Milter.noreply
    def envfrom(self, sender, *params):
        self.sender = sender.strip("<>")
        self.user = self.getsymval("{auth_authen}")
        self.claims = []
        self.message = bytearray()
        return Milter.CONTINUE

    @Milter.noreply
    @Milter.decode("bytes")
    def header(self, name, value):
        if name.lower() == "authentication-results":
            self.claims.append(claimed_id(value.decode("latin-1")))
        self.message += name.encode("utf-8", "surrogateescape") + b":" + self.blank + value
        self.message += b"\r\n"
        return Milter.CONTINUE

    @Milter.noreply
    def eoh(self):
        self.message += b"\r\n"
        return Milter.CONTINUE

    @Milter.noreply
    def body(self, chunk):
        self.message += chunk
        return Milter.CONTINUE

    def eom(self):
        # From the last to the first, because some mail servers number the rest anew after each.
        for number in range(len(self.claims), 0, -1):
            if self.claims[number - 1] in (None, self.authserv_id.lower()):
                LOG.info("[%d] a forged header is taken out", self.id)
                self.chgheader("Authentication-Results", number, "")
        if self.user:
            # A user of ours, who may be anywhere, and whose mail is not signed yet.
            results = [f"auth=pass smtp.auth={value(self.user)}"]
        else:
            results = [check_spf(self.ip, self.sender, self.helo)] if self.ip else []
            results += check_dkim(bytes(self.message))
        text = ";\n\t".join([self.authserv_id, *results])
        LOG.info("[%d] %s", self.id, "; ".join(results))
        # 0: above all others, so that the order tells who wrote it when. And with a blank of its
        # own, if the mail server puts none before it.
        self.addheader("Authentication-Results", text if self.blank else " " + text, 0)
        self.message = bytearray()
        return Milter.CONTINUE

    def abort(self):
        self.message = bytearray()
        return Milter.CONTINUE


def main(argv=None):
    """Run the filter until it is told to stop; *argv*: the arguments without the name."""
    parser = argparse.ArgumentParser(description="Check SPF and DKIM.")
    parser.add_argument("--socket", default="inet:8896@127.0.0.1", help="where to listen")
    parser.add_argument("--timeout", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument("--authserv-id", help="who we are, in the header (default: this host)")
    parser.add_argument("--nameserver", metavar="ADDRESS[@PORT]", help="default: this machine's")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    global lookup
    try:
        lookup = Resolver(options.nameserver)
    except (ValueError, dns.exception.DNSException) as error:
        parser.error(f"no name server: {error}")
    AuthResults.authserv_id = (options.authserv_id or socket.getfqdn()).rstrip(".")
    if not HARMLESS.fullmatch(AuthResults.authserv_id):
        parser.error(f"no authserv-id: {AuthResults.authserv_id}")
    Milter.factory = AuthResults
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS)
    Milter.runmilter("auth_results", options.socket, options.timeout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
