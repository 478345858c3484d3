"""Look things up in the DNS, with a cache, and with CNAMEs followed in the open.

API spec 3.3, on dnspython (the extra ``dns``), which is imported by the first query. The interface
is the one that SPF and call-back checks are written against: `Session.dns` gives plain data, an
empty list for what does not exist, and raises `DNSError` for what could not be found out.
"""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

__all__ = ["DNS", "MAX_CNAME", "DNSError", "DNSLookup", "Session"]

#: How many CNAMEs in a row are followed (RFC 1034 gives no number; ten is what SPF asks for).
MAX_CNAME = 10

#: How many answers a session remembers.
MAX_CACHE = 10_000

#: Seconds that a query may take with all its repetitions, unless said otherwise.
TIMEOUT = 10.0

# A name's limits in its text form, without the final dot (RFC 1035 section 2.3.4).
_MAX_LABEL = 63
_MAX_NAME = 253

#: The owner (in lower case, without the final dot) and the type of a record, and its data.
Record = tuple[tuple[str, str], Any]


class DNSError(Exception):
    """The DNS does not say: no answer, no server, or an answer that cannot be."""


class DNS:
    """Stands for py3dns's module of this name, of which filters know the exception."""

    DNSError = DNSError
    Base = None


class Answer(list[Record]):
    """The records of one answer, in order.

    Attributes: `ttls`, for how many seconds the data of an owner and type may be used;
    `negative_ttl`, for how many seconds it may be relied on that there is nothing else (RFC 2308
    section 5).
    """

    def __init__(self) -> None:
        """Make an answer without records, which may not be relied on."""
        super().__init__()
        self.ttls: dict[tuple[str, str], float] = {}
        self.negative_ttl: float = 0


def _library() -> Any:
    """Return the module dns.resolver of dnspython."""
    try:
        import dns.resolver
    except ImportError:
        raise ImportError('Milter.dns needs dnspython: pip install "pymilter-cffi[dns]"') from None
    return dns.resolver


def DNSLookup(
    name: str, qtype: str, timeout: Optional[float] = None, resolver: Any = None
) -> list[Record]:
    """Ask the DNS once.

    *name*: a domain, with or without a final dot; *qtype*: a type by name, such as ``"MX"``;
    *timeout*: seconds for the query with its repetitions, by default `TIMEOUT`; *resolver*: a
    dnspython resolver, by default the system's name servers. Returns ``((owner, type), data)`` for
    each record of the answer, CNAMEs among them: see `Session.dns` for the data. No record at all
    is an empty list.

    Raises DNSError if there is no answer, ImportError without dnspython.
    """
    library = _library()
    import dns.exception
    import dns.name
    import dns.rcode

    try:
        # By labels: a backslash in a name from outside is no escape.
        relative = name[:-1] if name.endswith(".") else name
        labels = [label.encode("ascii") for label in relative.split(".")]
        question = dns.name.Name([*labels, b""])
        if resolver is None:
            resolver = library.Resolver()
        response = resolver.resolve(
            question,
            qtype,
            search=False,
            raise_on_no_answer=False,
            lifetime=TIMEOUT if timeout is None else timeout,
        ).response
    except library.NXDOMAIN as error:
        response = next(iter(error.responses().values()))
    except library.NoNameservers as error:
        # A chain of CNAMEs that dnspython does not follow; we say ourselves what is wrong with it.
        response = next(
            (
                attempt[4]
                for attempt in error.kwargs.get("errors", ())
                if attempt[4] is not None
                and attempt[4].rcode() == dns.rcode.NOERROR
                and attempt[4].answer
            ),
            None,
        )
        if response is None:
            raise DNSError(f"{name} {qtype}: {error}") from error
    except (dns.exception.DNSException, OSError, ValueError) as error:
        # ValueError: what is no name, or no type (UnicodeError is one).
        raise DNSError(f"{name} {qtype}: {error}") from error
    return _records(response)


def _records(response: Any) -> Answer:
    """Return the answer section of a dnspython message; what is not of class IN is no answer."""
    import dns.rdataclass
    import dns.rdatatype

    answer = Answer()
    for rrset in response.answer:
        if rrset.rdclass != dns.rdataclass.IN:
            continue
        key = (_text(rrset.name).lower(), dns.rdatatype.to_text(rrset.rdtype))
        answer.ttls[key] = min(rrset.ttl, answer.ttls.get(key, rrset.ttl))
        answer.extend((key, _data(key[1], rdata)) for rdata in rrset)
    for rrset in response.authority:
        if (rrset.rdclass, rrset.rdtype) == (dns.rdataclass.IN, dns.rdatatype.SOA):
            answer.negative_ttl = min(rrset.ttl, rrset[0].minimum)
    return answer


def _text(name: Any) -> str:
    """Return a dnspython name without the final dot; the root is empty."""
    return str(name.to_text(omit_final_dot=True)) if len(name.labels) > 1 else ""


def _data(kind: str, rdata: Any) -> Any:
    if kind in ("A", "AAAA"):
        return str(rdata.address)
    if kind in ("CNAME", "DNAME", "NS", "PTR"):
        return _text(rdata.target)
    if kind == "MX":
        return (int(rdata.preference), _text(rdata.exchange))
    if kind in ("TXT", "SPF"):
        return list(rdata.strings)
    if kind == "SRV":
        return (rdata.priority, rdata.weight, rdata.port, _text(rdata.target))
    if kind == "SOA":
        return (_text(rdata.mname), _text(rdata.rname), rdata.serial, rdata.refresh,
                rdata.retry, rdata.expire, rdata.minimum)  # fmt: skip
    return rdata.to_text()


def _resolver_of(servers: Union[str, Sequence[str]]) -> Any:
    """Return a dnspython resolver that asks these addresses."""
    resolver = _library().Resolver(configure=False)
    resolver.nameservers = [servers] if isinstance(servers, str) else list(servers)
    return resolver


# To see whether a test has put another in its place.
_own_lookup = DNSLookup


class Session:
    """Queries that belong together, for one message say, with a cache of their answers.

    *timeout*: seconds that one query may take, with its repetitions; by default `TIMEOUT`.
    *lifetime*: seconds that all queries together may take, counted from the first; None: no limit.
    *resolver*: a dnspython resolver, or the addresses of name servers; by default the system's.

    Attribute `cache`: a dictionary from ``(name, type)`` to data. What the DNS gave stays for as
    long as the DNS says, what somebody else put there stays. Several threads may use one session.
    """

    #: Pairs of a query's type and a record's type: such a record is remembered from such an answer.
    SAFE2CACHE = frozenset(
        [
            ("MX", "MX"),
            ("MX", "A"),
            ("CNAME", "CNAME"),
            ("CNAME", "A"),
            ("A", "A"),
            ("AAAA", "AAAA"),
            ("PTR", "PTR"),
            ("NS", "NS"),
            ("NS", "A"),
            ("TXT", "TXT"),
            ("SPF", "SPF"),
        ]
    )

    def __init__(
        self,
        timeout: Optional[float] = None,
        lifetime: Optional[float] = None,
        resolver: Union[str, Sequence[str], Any] = None,
    ) -> None:
        """Make a session; nothing is asked yet."""
        self.cache: dict[tuple[str, str], list[Any]] = {}
        self.timeout = timeout
        self.lifetime = lifetime
        self.resolver = resolver
        # When what the DNS gave is no longer good, and what it gave: other data are somebody's own.
        self._expiry: dict[tuple[str, str], tuple[float, list[Any]]] = {}
        self._deadline: Optional[float] = None
        self._lock = threading.Lock()

    def dns(self, name: str, qtype: str, cnames: Optional[dict[str, str]] = None) -> list[Any]:
        """Return the data of a name's records of one type, a list.

        *name*: a domain, with or without a final dot. *qtype*: a type by name. *cnames*: for
        internal use, the links that led here. Data are `str` for A, AAAA, CNAME, NS, PTR (names
        without the final dot), ``(priority, host)`` for MX, a list of `bytes` for TXT and SPF,
        ``(priority, weight, port, host)`` for SRV, a tuple of seven for SOA, the text of the zone
        file for the rest.

        A name that does not exist or has no such record, or that is no name, gives an empty list.
        Raises DNSError for all else: no answer in time, a server's failure, a loop of CNAMEs or
        more than `MAX_CNAME` of them. (ImportError without dnspython.)
        """
        cleaned = _clean(name)
        if cleaned is None:
            return []
        name, qtype = cleaned, str(qtype).upper()
        known = self._known((name, qtype))
        if known is not None:
            return list(known)
        found: dict[tuple[str, str], list[Any]] = {}
        link = self._known((name, "CNAME")) if qtype != "CNAME" else None
        if not link:
            found, negative_ttl = self._ask(name, qtype)
            result = found.get((name, qtype))
            if result:
                return list(result)
            link = found.get((name, "CNAME"))
            if not link:
                self._remember((name, qtype), [], negative_ttl)
                return []
        links = {} if cnames is None else cnames
        if len(links) >= MAX_CNAME:
            raise DNSError(f"Length of CNAME chain exceeds {MAX_CNAME}")
        target = str(link[0]).lower()
        links[name] = target
        if target in links:
            raise DNSError("CNAME loop")
        # What came along with the alias need not be asked for again.
        result = found.get((target, qtype)) or self.dns(target, qtype, links)
        if result:
            # For as long as every record on the way may be used.
            left = min(self._left((name, "CNAME")), self._left((target, qtype)))
            self._remember((name, qtype), list(result), left)
        return list(result)

    def dns_txt(self, domain: Optional[str], enc: str = "ascii") -> list[str]:
        """Return the TXT records of *domain*, each as one text in the encoding *enc*.

        No domain gives an empty list. Raises DNSError as `dns` does, also for what is not in *enc*.
        """
        if not domain:
            return []
        try:
            return [b"".join(pieces).decode(enc) for pieces in self.dns(domain, "TXT")]
        except UnicodeError as error:
            raise DNSError(f"{domain} TXT: {error}") from error

    def _ask(self, name: str, qtype: str) -> tuple[dict[tuple[str, str], list[Any]], float]:
        """Query, and remember what may be.

        Returns data by owner and type, and the seconds for which there is nothing else.
        """
        timeout = TIMEOUT if self.timeout is None else self.timeout
        if self.lifetime is not None:
            now = time.monotonic()
            if self._deadline is None:
                self._deadline = now + self.lifetime
            timeout = min(timeout, self._deadline - now)
            if timeout <= 0:
                raise DNSError(f"{name} {qtype}: no time left of {self.lifetime} s")
        try:
            if DNSLookup is _own_lookup:
                if isinstance(self.resolver, (str, list, tuple)):
                    self.resolver = _resolver_of(self.resolver)
                answer = DNSLookup(name, qtype, timeout, self.resolver)
            else:
                # Filters' tests put their own in its place, which knows no more than the question.
                answer = DNSLookup(name, qtype)
        except (OSError, ValueError) as error:
            raise DNSError(f"{name} {qtype}: {error}") from error
        found: dict[tuple[str, str], list[Any]] = {}
        for (owner, kind), data in answer:
            if kind in ("CNAME", qtype) or (qtype, kind) in self.SAFE2CACHE:
                found.setdefault((owner.lower().rstrip("."), kind), []).append(data)
        found = {key: found[key] for key in _belonging(found, name)}
        ttls = answer.ttls if isinstance(answer, Answer) else {}
        for key, datas in found.items():
            self._remember(key, datas, ttls.get(key, float("inf")))
        return found, answer.negative_ttl if isinstance(answer, Answer) else 0

    def _known(self, key: tuple[str, str]) -> Optional[list[Any]]:
        """Return what the cache says, None if it does not, or not any more."""
        data = self.cache.get(key)
        if data is None:
            return None
        expiry, given = self._expiry.get(key, (0.0, None))
        if given is not data:
            return data or None  # put there by somebody; an empty list is no knowledge
        return data if expiry > time.monotonic() else None

    def _left(self, key: tuple[str, str]) -> float:
        """Return for how many seconds the cache's answer holds."""
        if key not in self.cache:
            return 0
        return self._expiry.get(key, (float("inf"), None))[0] - time.monotonic()

    def _remember(self, key: tuple[str, str], data: list[Any], ttl: float) -> None:
        if ttl <= 0:
            return
        with self._lock:
            tables: tuple[dict[tuple[str, str], Any], ...] = (self.cache, self._expiry)
            for table in tables:  # somebody may have taken things from the first
                if len(table) >= MAX_CACHE and key not in table:
                    oldest = next(iter(table))
                    self.cache.pop(oldest, None)
                    self._expiry.pop(oldest, None)
            self.cache[key] = data
            self._expiry[key] = (time.monotonic() + ttl, data)


def _belonging(found: dict[tuple[str, str], list[Any]], name: str) -> Iterable[tuple[str, str]]:
    """Return the keys that an answer may speak of: its name, its aliases, the hosts it names.

    Else the owner of one domain could say in an answer what another's addresses are.
    """
    owners = [name]
    for owner in owners:
        for kind in ("CNAME", "MX", "NS"):
            for data in found.get((owner, kind), ()):
                host = str(data[1] if kind == "MX" else data).lower()
                if host not in owners and len(owners) <= 4 * MAX_CNAME:
                    owners.append(host)
    return [key for key in found if key[0] in owners]


# What separates labels of an internationalized name (RFC 3490 section 3.1).
_DOTS = re.compile("[.\u3002\uff0e\uff61]")

# The characters that IDNA2003 replaces and IDNA2008 keeps (RFC 5894 section 7.2): the standard
# library, which knows IDNA2003 only, would make another domain's name of one with them.
_DEVIATIONS = frozenset("\u00df\u03c2\u200c\u200d")


def _a_label(label: str) -> str:
    """Return a label in ASCII. Raises UnicodeError if it cannot be a label."""
    if label.isascii():
        return label
    lowered = unicodedata.normalize("NFC", label.lower())
    if _DEVIATIONS.intersection(lowered):
        return "xn--" + lowered.encode("punycode").decode("ascii")
    encoded = label.encode("idna").decode("ascii")
    if "." in encoded:
        raise UnicodeError("a dot within a label")
    return encoded


def _clean(name: Any) -> Optional[str]:
    """Return a domain in lower case without its final dot, None for what is no domain."""
    if isinstance(name, bytes):
        name = name.decode("ascii", "replace")
    if not isinstance(name, str):
        return None
    if not name.isascii():
        try:
            name = ".".join(_a_label(label) for label in _DOTS.split(name))
        except UnicodeError:
            return None
    if name.endswith("."):
        name = name[:-1]
    if len(name) > _MAX_NAME or any(not 0 < len(label) <= _MAX_LABEL for label in name.split(".")):
        return None
    return str(name.lower())
