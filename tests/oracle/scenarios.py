"""The scenarios that are played to pymilter on libmilter and to us; see sidebyside.py for the form.

A scenario without ``differs`` must give the same bytes and the same callbacks, with the same
arguments, macros and results, on both sides. One with ``differs`` is a deliberate difference: it
says what each side does, and which one is right by which document.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Any

from sidebyside import Step, macros, offer

CONTINUE, REJECT, DISCARD, ACCEPT, TEMPFAIL, NOREPLY, SKIP, ALL_OPTS = 0, 1, 2, 3, 4, 7, 8, 10
RAISE = {"raise": "ValueError"}

#: Every callback of a filter's class.
ALL = ["connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom",
       "abort", "close", "unknown"]  # fmt: skip


def without(*names: str) -> dict[str, Any]:
    """Return the behaviour of a class that does not define these callbacks."""
    return {"methods": [name for name in ALL if name not in names]}


@dataclass(frozen=True)
class Differs:
    """A deliberate difference.

    why: what is different, and where that is decided.
    right: "ours", "theirs" or "either".
    theirs, ours: the transcript of each side.
    their_names, our_names: the callbacks of each side; None where they do not differ, and are then
        compared between the sides.
    """

    why: str
    right: str
    theirs: str
    ours: str
    their_names: str | None = None
    our_names: str | None = None


@dataclass(frozen=True)
class Scenario:
    """What is sent, to a filter that does what.

    kind: "base" for a subclass of Milter.Base, "low" for bare callbacks on the module milter.
    closes: the sides on which the close callback is called at the end of each connection.
    narrow: whether steps are negotiated away. libmilter remembers that for the whole process (Q9
        of wire spec 3.3), so these scenarios have a process of their own.
    fresh: whether the filters are started anew for it, and ended after it.
    """

    name: str
    steps: tuple[Step, ...]
    behaviour: dict[str, Any] = field(default_factory=dict)
    kind: str = "base"
    closes: str = "theirs ours"
    differs: Differs | None = None
    narrow: bool = False
    fresh: bool = False


SCENARIOS: list[Scenario] = []


def add(
    name: str,
    *steps: Step,
    behaviour: dict[str, Any] | None = None,
    kinds: str = "base low",
    closes: str = "theirs ours",
    differs: Differs | None = None,
) -> None:
    """Add a scenario, once for each kind of filter."""
    behaviour = behaviour or {}
    narrow = (
        "methods" in behaviour or "negotiate" in behaviour or name.startswith(("offer-", "noreply"))
    )
    for kind in kinds.split():
        SCENARIOS.append(
            Scenario(f"{name}-{kind}", steps, behaviour, kind, closes, differs, narrow)
        )


FULL = "O C H M R T L N B E Q"
FULL_CALLS = "negotiate connect hello envfrom envrcpt data header eoh body eom close"

# ---- Whole sessions ----

add("message", FULL)
add("message-ended-by-eof", "O C H M R T L N B E")
add("two-messages", "O C H M R T L N B E M R T L N B E Q")
add("three-recipients", "O C H M R R R T L N B E Q")
add("many-headers-and-chunks", "O C H M R T L L L L N B B B E Q")
add("no-header", "O C H M R T N B E Q")
add("no-body", "O C H M R T L N E Q")
add("no-data-step", "O C H M R L N B E Q")
add("content-without-eoh", "O C H M R E Q")
add("ehlo-twice", "O C H H M R T L N B E Q")
add("no-helo", "O C M R T L N B E Q")
add("only-negotiation", "O")
add("only-negotiation-and-quit", "O Q")
add("only-connect", "O C Q")
add("second-connection-is-another-object", "O C H M R | O C H M R T L N B E Q | O Q")
add("thread-locals-are-fresh", f"{FULL} | O C Q | {FULL}", behaviour={"thread_local": True})
for path in ("O C H M", "O C H M R", "O C H M R T", "O C H M R T L", "O C H M R T L N",
             "O C H M R T L N B"):  # fmt: skip
    last = path[-1]
    add(f"vanishes-after-{last}", path)
    add(f"quits-after-{last}", path, "Q")
    add(f"aborts-after-{last}", path, "A M R T L N B E Q")
    add(f"aborts-twice-after-{last}", path, "A A M Q")
    if last in "MR":
        add(f"new-mail-after-{last}", path, "M Q")
    add(f"new-helo-after-{last}", path, "H M Q")
add("abort-before-mail", "O C A H A M Q")
add("abort-after-message", "O C H M R T L N B E A A M R T L N B E A Q")
add("unknown-everywhere", "O C U H U M U R U T L N B E U Q")

# ---- Negotiation ----

NR = 0xFF080
OFFERS = {
    "v6-full": offer(6, 0x1FF, 0x1FFFFF),
    "v2": offer(2, 0x3F, 0x7F),
    "v3": offer(3, 0x3F, 0x17F),
    "v4": offer(4, 0x3F, 0x37F),
    "v5": offer(5, 0x1FF, 0x3FF),
    "v7": offer(7, 0x1FF, 0x1FFFFF),
    "v8": offer(8, 0x1FF, 0x1FFFFF),
    "actions-0": offer(6, 0, 0x1FFFFF),
    "protocol-0": offer(6, 0x1FF, 0),
    "both-0": offer(2, 0, 0),
    "no-skip": offer(6, 0x1FF, 0x1FFBFF),
    "no-nr": offer(6, 0x1FF, 0x1FFFFF & ~NR),
    "no-leadspc-rej": offer(6, 0x1FF, 0xFF7FF),
    "20-bytes": offer(6, 0x1FF, 0x1FFFFF, bytes(8)),
    "mds-bits": offer(6, 0x1FF, 0x301FFFFF),
    "more-actions": offer(6, 0x3FF, 0x1FFFFF),
    "more-protocol": offer(6, 0x1FF, 0x3FFFFF),
}
CLASSES = {
    "all": {},
    "eom-only": {"methods": ["eom", "close"]},
    "headers-only": {"methods": ["header", "eom", "close"]},
    "noreply-envelope": {
        "decorate": {name: [["noreply"]] for name in ("connect", "hello", "envfrom", "envrcpt")}
    },
    "noreply-everything": {
        "decorate": {
            name: [["noreply"]]
            for name in (
                "connect",
                "hello",
                "envfrom",
                "envrcpt",
                "data",
                "header",
                "eoh",
                "body",
                "unknown",
            )
        }
    },
    "nocallback-body": {"decorate": {"body": [["nocallback"]]}},
    "rejected-recipients": {"class_decorators": ["rejected_recipients"]},
    "header-leading-space": {"class_decorators": ["header_leading_space"]},
    "both-class-decorators": {"class_decorators": ["rejected_recipients", "header_leading_space"]},
    "all-opts": {"negotiate": {"return": ALL_OPTS}},
    "untouched": {"negotiate": {"super": False, "return": CONTINUE}},
}
#: Offers from which the class's bits cannot be had: missing NO* and NR bits are simply not asked
#: for by Base, since it only clears bits of the offer.
for offer_name, packet in OFFERS.items():
    for class_name, behaviour in CLASSES.items():
        add(f"offer-{offer_name}-{class_name}", packet, "Q", behaviour=behaviour, kinds="base")
    add(f"offer-{offer_name}", packet, "Q", kinds="low")
    add(
        f"offer-{offer_name}-untouched",
        packet,
        "Q",
        behaviour={"negotiate": {"return": CONTINUE}},
        kinds="low",
    )
# A connection that ends before its first callback gets no close, since there is no context yet.
for version in (0, 1, 0x80000000, 0xFFFFFFFF):
    packet = offer(version, 0x1FF, 0x1FFFFF)
    add(f"offer-version-{version:x}", packet, kinds="low", closes="")
for size in (0, 1, 11):
    add(f"offer-of-{size}-bytes", ("O", bytes(size)), kinds="low", closes="")

for name, asked in {
    "actions-1": {"set": {0: 1, 1: 0}, "return": CONTINUE},
    "actions-0": {"set": {0: 0, 1: 0}, "return": CONTINUE},
    "leadspc": {"set": {1: 0x100000}, "return": CONTINUE},
    "rcpt-rej": {"set": {1: 0x800}, "return": CONTINUE},
    "not-offered-action": {"set": {0: 0x3FF}, "return": CONTINUE},
    "not-offered-protocol": {"set": {1: 0x200000}, "return": CONTINUE},
    "reserved-protocol": {"set": {1: 0x70000000}, "return": CONTINUE},
    "minus-one": {"set": {1: -1}, "return": CONTINUE},
    "modulo-2-64": {"set": {1: 1 << 70}, "return": CONTINUE},
    "five-elements": {"append": [7], "set": {1: 0}, "return": CONTINUE},
    "words-2-and-3": {"set": {1: 0, 2: 5, 3: 6}, "return": CONTINUE},
    "non-int-element": {"set": {1: "x"}, "return": CONTINUE},
    "all-opts": {"return": ALL_OPTS},
    "all-opts-after-edit": {"set": {0: 0, 1: 0}, "return": ALL_OPTS},
    "reject": {"return": REJECT},
    "accept": {"return": ACCEPT},
    "tempfail": {"return": TEMPFAIL},
    "noreply": {"return": NOREPLY},
    "99": {"return": 99},
    "none": {"return": None},
    "text": {"return": "continue"},
    "raises": {"return": RAISE},
}.items():
    add(f"negotiate-{name}", "O C H M Q", behaviour={"negotiate": asked}, kinds="base low")
add("negotiate-all-nr", "O C- H- M- Q",
    behaviour={"negotiate": {"set": {0: 1, 1: NR}, "return": CONTINUE}})  # fmt: skip
add(
    "negotiate-skip-not-offered",
    OFFERS["no-skip"],
    behaviour={"negotiate": {"set": {1: 0x400}, "return": CONTINUE}},
)
add(
    "negotiate-nr-not-offered-is-emulated",
    OFFERS["no-nr"],
    "C H M R T L N B E Q",
    behaviour={
        "negotiate": {"set": {1: NR}, "return": CONTINUE},
        "returns": {name: NOREPLY for name in ALL if name not in ("eom", "abort", "close")},
    },
    kinds="low",
)
add("negotiate-sign-bit", offer(6, 0x1FF, 0x801FFFFF), "Q", kinds="low", differs=Differs(
    "an offer with bit 31 set is shown to the callback sign-extended to 64 bits; we show 32 bits "
    "(API spec 1.8, fix)", "ours", "O6,1ff,400", "O6,1ff,400"))  # fmt: skip
add("setsymlist", "O C H M Q", kinds="low", behaviour={
    "negotiate": {"set": {1: 0}, "return": CONTINUE},
    "calls": {"negotiate": [
        ["setsymlist", 3, ""], ["setsymlist", 0, "j _"], ["setsymlist", 5, "{msg_id}"],
        ["setsymlist", 6, "i"], ["setsymlist", 0, "again"], ["setsymlist", 7, "i"],
        ["setsymlist", -1, "i"], ["setsymlist", 1, None],
    ]},
})  # fmt: skip
add("setsymlist-with-all-opts", "O C Q", kinds="low", behaviour={
    "negotiate": {"return": ALL_OPTS},
    "calls": {"negotiate": [["setsymlist", 2, "i {auth_authen}"]]},
})  # fmt: skip
add("setsymlist-later", "O C H Q", kinds="low", behaviour={
    "calls": {"connect": [["setsymlist", 2, "i"]]},
}, differs=Differs(
    "setsymlist after the negotiation succeeds and does nothing; ours fails (wire spec 2.5)",
    "ours", "O6,1ff,400 c c", "O6,1ff,400 c c"))  # fmt: skip
add(
    "symlist-decorator", "O C H M Q", kinds="base",
    behaviour={"decorate": {"envfrom": [["symlist", "{auth_authen}", "i"]]}},
    differs=Differs(
        "@symlist hands bytes to a context that takes only str, and with that error the whole "
        "negotiation falls back to ALL_OPTS; ours asks for the macros (API spec 2.4, fix)",
        "ours", "O6,1ff,400 c c c", "O6,1ff,400,2:{auth_authen}+i c c c"),
)  # fmt: skip
add(
    "setsymlist-not-offered", offer(6, 0xFF, 0x1FFFFF), "C Q", kinds="low",
    behaviour={"negotiate": {"set": {1: 0}, "return": CONTINUE},
               "calls": {"negotiate": [["setsymlist", 2, "i"]]}},
    differs=Differs(
        "a macro list is sent though the mail server did not offer SETSYMLIST, and an old one may "
        "choke on it; we leave it out (wire spec row 50)",
        "ours", "O6,ff,0,2:i c", "O6,ff,0 c"),
)  # fmt: skip

# ---- What a filter is told ----

for name, data in {
    "ipv4": b"h.ex\x004\x04\xd2192.0.2.1\x00",
    "ipv4-port-0": b"h.ex\x004\x00\x00192.0.2.1\x00",
    "ipv6": b"h.ex\x006\x00\x192001:DB8::1\x00",
    "ipv6-tag": b"h.ex\x006\x00\x19IPv6:2001:db8::1\x00",
    "ipv6-lower-tag": b"h.ex\x006\x00\x19ipv6:::1\x00",
    "ipv6-mapped": b"h.ex\x006\x00\x19::ffff:192.0.2.1\x00",
    "unix": b"h.ex\x00L\x00\x00/run/x.sock\x00",
    "unix-empty": b"h.ex\x00L\x00\x00\x00",
    "unix-107": b"h.ex\x00L\x00\x00/" + b"p" * 106 + b"\x00",
    "unix-108": b"h.ex\x00L\x00\x00/" + b"p" * 107 + b"\x00",
    "unknown": b"localhost\x00U",
    "unknown-with-data": b"localhost\x00U\x00\x00x\x00",
    "empty-name": b"\x004\x04\xd2192.0.2.1\x00",
    "bracketed-name": b"[192.0.2.1]\x004\x04\xd2192.0.2.1\x00",
    "utf8-name": "bücher.example".encode() + b"\x004\x04\xd2192.0.2.1\x00",
    "family-X": b"h\x00X\x04\xd2192.0.2.1\x00",
    "ipv4-with-ipv6": b"h\x004\x04\xd2::1\x00",
    "ipv4-garbage": b"h\x004\x04\xd2nonsense\x00",
    "ipv4-empty": b"h\x004\x04\xd2\x00",
    "no-nul": b"h\x004\x04\xd2192.0.2.1",
    "host-only": b"h\x00",
    "host-and-family": b"h\x004",
    "host-family-port": b"h\x004\x04\xd2",
}.items():
    add(f"connect-{name}", "O", ("C", data), "Q")
for name, data in {
    "two-strings": b"a\x00b\x00",
    "empty": b"\x00",
    "utf8": "bücher.example\x00".encode(),
    "literal": b"[192.0.2.1]\x00",
    "980-bytes": b"h" * 980 + b"\x00",
}.items():
    add(f"helo-{name}", "O C", ("H", data), "M Q")
for name, data in {
    "parameters": b"<a>\x00SIZE=1\x00BODY=8BITMIME\x00",
    "unterminated-parameter": b"<a>\x00SIZE=1",
    "empty-parameter": b"<a>\x00\x00B\x00",
    "null-sender": b"<>\x00",
    "empty": b"\x00",
    "bare": b"a@b\x00",
    "latin1": b"<\xe9@b>\x00SIZE=1\x00",
    "latin1-parameter": b"<a@b>\x00X=\xe9\x00",
    "utf8": "<é@b>\x00SMTPUTF8\x00".encode(),
}.items():
    add(f"mail-{name}", "O C H", ("M", data), "R Q")
    add(f"rcpt-{name}", "O C H M", ("R", data), "Q")
for name, data in {
    "empty-value": b"A\x00\x00",
    "third-string": b"A\x00b\x00c\x00",
    "folded": b"X\x00a\n\tb\x00",
    "crlf": b"X\x00a\r\n b\x00",
    "leading-blanks": b"X\x00  a\x00",
    "utf8": "X\x00grün\x00".encode(),
    "latin1": b"X\x00gr\xfcn\x00",
    "control": b"X\x00\x01\x02\x7f\x00",
    "60000-bytes": b"X\x00" + b"v" * 60000 + b"\x00",
}.items():
    add(f"header-{name}", "O C H M R T", ("L", data), "N E Q")
for name, data in {
    "nul": b"a\x00b\r\n",
    "all-bytes": bytes(range(256)),
    "65535": b"x" * 65535,
    "bare-lf": b"\n",
}.items():
    add(f"body-{name}", "O C H M R T L N", ("B", data), "E Q")
add("ignored-data", "O C H M R", ("T", b"xyz"), "L", ("N", b"zz"), "B E", ("Q", b"xyz"))
add("unknown-command", "O C H", ("U", b"FOO bar baz\x00"), ("U", b"\x00"), "Q")
add("unknown-utf8", "O C", ("U", "GRÜSS\x00".encode()), "Q")
add("body-in-eom-packet", "O C H M R T L N B", ("E", b"tail\r\n"), "Q")
add("only-body-in-eom-packet", "O C H M R T L N", ("E", b"tail\r\n"), "Q")
add(
    "body-in-eom-packet-no-body-callback",
    "O C H M R T L N",
    ("E", b"tail\r\n"),
    "Q",
    behaviour=without("body"),
    kinds="base",
)
for strategy in ("surrogateescape", "bytes", "strict", "ignore", "replace", "backslashreplace"):
    add(
        f"decode-{strategy}",
        "O C H",
        ("M", b"<\xe9@b>\x00SIZE=1\x00"),
        ("R", b"<\xe9@b>\x00NOTIFY=NEVER\x00"),
        "T",
        ("L", b"X\x00h\xe9\x00"),
        ("L", "Y\x00grün\x00".encode()),
        ("L", b"Z\x00plain\x00"),
        "N E Q",
        behaviour={
            "decorate": {n: [["decode", strategy]] for n in ("envfrom", "envrcpt", "header")}
        },
        kinds="base",
    )
add(
    "decode-unknown-strategy", "O C H M R T", "L", ("L", b"X\x00\xe9\x00"), "Q", kinds="base",
    behaviour={"decorate": {"header": [["decode", "nonsense"]]}},
)  # fmt: skip

# ---- Macros ----

LOOKUPS = ["j", "{j}", "{daemon_name}", "daemon_name", "", "i", "{i}", "{auth_authen}", "a", "b",
           "{rcpt_addr}", "{msg_id}", "_"]  # fmt: skip
LOOK = {"macros": LOOKUPS}
add("macros-none", FULL, behaviour=LOOK)
add("macros-braces", "O", macros("C", j="host", _="me", daemon_name="dn"), "C Q", behaviour=LOOK)
add("macros-first-wins", "O", ("D", b"C{j}\0A\0j\0B\0"), "C | O", ("D", b"Cj\0B\0{j}\0A\0"), "C Q",
    behaviour=LOOK)  # fmt: skip
add("macros-replace", "O", macros("C", a="1"), macros("C", b="2"), "C Q", behaviour=LOOK)
add("macros-empty-ignored", "O", macros("C", a="1"), ("D", b"C"), ("D", b"Cb"), "C Q",
    behaviour=LOOK)  # fmt: skip
add("macros-other-stages-ignored", "O", macros("C", a="1"), macros("L", a="2"),
    macros("B", a="3"), macros("U", a="4"), macros("X", a="5"), macros("O", a="6"), "C Q",
    behaviour=LOOK)  # fmt: skip
add("macros-unterminated", "O", ("D", b"Ca\x001\x00b\x00zz"), "C Q", behaviour=LOOK)
add(
    "macros-latest-stage",
    "O", macros("C", a="C"), "C", macros("H", a="H"), "H", macros("M", a="M"), "M",
    macros("R", a="R"), "R", macros("T", a="T"), "T L", macros("N", a="N"), "N B",
    macros("E", a="E"), "E Q",
    behaviour=LOOK,
)  # fmt: skip
MACRO_MESSAGE: tuple[Step, ...] = (
    macros("C", j="C"), "C", macros("H", _="H"), "H", macros("M", i="M"), "M",
    macros("R", a="R"), "R", macros("T", b="T"), "T L N", macros("E", msg_id="E"), "E",
)  # fmt: skip
add("macros-second-message", "O", *MACRO_MESSAGE, "M R R T L N E Q", behaviour=LOOK)
add("macros-after-helo", "O", *MACRO_MESSAGE, "H M Q", behaviour=LOOK)
add("macros-in-close-after-eof", "O", *MACRO_MESSAGE, behaviour=LOOK)
add("macros-second-rcpt", "O C H M", macros("R", a="1"), "R R", macros("R", b="2"), "R Q",
    behaviour=LOOK)  # fmt: skip
add("macros-abort", "O C H", macros("M", i="m"), "M", macros("R", a="r"), "R A M Q", behaviour=LOOK)
add("macros-early", "O C H M R", macros("E", i="e"), "T L N E Q", behaviour=LOOK)
add("macros-empty-value", "O", ("D", b"Ca\0\0b\0v\0"), "C Q", behaviour=LOOK)
add("macros-utf8", "O", macros("C", a="grün"), "C Q", behaviour=LOOK)
add("macros-of-a-step-not-wanted", "O", macros("C", j="c"), macros("H", _="h"), "M Q",
    behaviour={**LOOK, **without("connect", "hello")}, kinds="base")  # fmt: skip

# ---- Verdicts ----

PATHS = {
    "connect": "O C",
    "hello": "O C H",
    "envfrom": "O C H M",
    "envrcpt": "O C H M R",
    "data": "O C H M R T",
    "header": "O C H M R T L",
    "eoh": "O C H M R T L N",
    "body": "O C H M R T L N B",
    "eom": "O C H M R T L N B E",
    "unknown": "O C H U",
}
EVENTS = {
    "connect": "negotiate connect",
    "hello": "negotiate connect hello",
    "envfrom": "negotiate connect hello envfrom",
    "envrcpt": "negotiate connect hello envfrom envrcpt",
    "data": "negotiate connect hello envfrom envrcpt data",
    "header": "negotiate connect hello envfrom envrcpt data header",
    "eoh": "negotiate connect hello envfrom envrcpt data header eoh",
    "body": "negotiate connect hello envfrom envrcpt data header eoh body",
    "eom": "negotiate connect hello envfrom envrcpt data header eoh body eom",
    "unknown": "negotiate connect hello unknown",
}
O_REPLY = "O6,1ff,400"
UNTRAPPED = "yb'451_4.3.0_pymilter:_untrapped_exception_in_recorder\\x00'"


def opening(callback: str) -> str:
    """Return the replies to all of PATHS[callback] but the last."""
    return " ".join([O_REPLY] + ["c"] * (len(PATHS[callback].split()) - 2))


for callback, path in PATHS.items():
    # libmilter takes an abort after an unknown command for one of a message: see q2 below.
    abort = "" if callback == "unknown" else "A"
    for verdict in (REJECT, DISCARD, ACCEPT, TEMPFAIL):
        add(f"{callback}-returns-{verdict}", path, f"{abort} H M R A M Q",
            behaviour={"returns": {callback: [verdict, CONTINUE]}})  # fmt: skip
    for name, value in {
        "none": None,
        "text": "reject",
        "true": True,
        "2-to-the-32": 1 << 32,
        "raise": RAISE,
        "keyboard-interrupt": {"raise": "KeyboardInterrupt"},
    }.items():
        add(f"{callback}-{name}", path, f"{abort} M Q",
            behaviour={"returns": {callback: [value, CONTINUE]}})  # fmt: skip
    for policy in (CONTINUE, REJECT, ACCEPT):
        add(f"{callback}-raises-policy-{policy}", path, f"{abort} M Q",
            behaviour={"returns": {callback: [RAISE, CONTINUE]}, "policy": policy})  # fmt: skip
    # The steps after each unknown value: a new MAIL, so that the session is seen to go on.
    for value in (5, 6, 9, ALL_OPTS, 99, -5) if callback == "hello" else (5,):
        in_mail = callback not in ("connect", "hello", "unknown", "eom")
        ends = callback != "envrcpt"
        theirs = f"{EVENTS[callback]} {'abort ' if in_mail else ''}envfrom abort close"
        ours = f"{EVENTS[callback]} {'abort ' if in_mail and not ends else ''}envfrom abort close"
        add(f"{callback}-unknown-verdict-{value}", f"{path}?", "M Q",
            behaviour={"returns": {callback: [value, CONTINUE]}},
            kinds="base low" if callback == "hello" else "base",
            differs=Differs(
                "an unknown verdict: nothing is sent and the mail server waits until its timeout; "
                "we let the exception policy answer (design, section 5; wire spec row 130)",
                "ours", f"{opening(callback)} - c", f"{opening(callback)} {UNTRAPPED} c",
                theirs, ours))  # fmt: skip
    if callback != "eom":
        # NOREPLY that was not negotiated.
        in_mail = callback not in ("connect", "hello", "unknown")
        events = f"{EVENTS[callback]} {'abort ' if in_mail else ''}envfrom abort close"
        add(f"{callback}-noreply-not-negotiated", f"{path}?", "M Q",
            behaviour={"returns": {callback: [NOREPLY, CONTINUE]}}, kinds="base",
            differs=Differs(
                "NOREPLY without the no-reply bit: nothing is sent and the mail server waits; we "
                "send CONTINUE and log it (wire spec row 131)",
                "ours", f"{opening(callback)} - c", f"{opening(callback)} c c",
                events, events))  # fmt: skip
    if callback == "body":
        add("body-skip", path, "E M Q", behaviour={"returns": {"body": [SKIP, CONTINUE]}})
    elif callback != "eom":
        in_mail = callback not in ("connect", "hello", "unknown")
        events = f"{EVENTS[callback]} {'abort ' if in_mail else ''}envfrom abort close"
        add(f"{callback}-skip", path, "M Q", behaviour={"returns": {callback: [SKIP, CONTINUE]}},
            differs=Differs(
                "SKIP outside body: the skip reply is sent, and Sendmail then leaves the filter "
                "out; we send CONTINUE and log it (wire spec 2.4, 4.1)",
                "ours", f"{opening(callback)} s c", f"{opening(callback)} c c",
                events, events))  # fmt: skip
add("body-skip-not-offered", OFFERS["no-skip"], "C H M R T L N B E Q",
    behaviour={"returns": {"body": SKIP}},
    differs=Differs(
        "SKIP that was not negotiated is sent all the same; we send CONTINUE and log it "
        "(wire spec 4.1)", "ours",
        "O6,1ff,0 c c c c c c c s c", "O6,1ff,0 c c c c c c c c c",
        FULL_CALLS, FULL_CALLS))  # fmt: skip
add("eom-skip", "O C H M R T L N B E M Q", behaviour={"returns": {"eom": [SKIP, CONTINUE]}},
    differs=Differs(
        "SKIP at the end of the message: the skip reply is sent, which Sendmail takes for a "
        "protocol error; we send CONTINUE and log it (wire spec 2.4, 4.1)", "ours",
        f"{O_REPLY} c c c c c c c c s c", f"{O_REPLY} c c c c c c c c c c",
        f"{EVENTS['eom']} envfrom abort close",
        f"{EVENTS['eom']} envfrom abort close"))  # fmt: skip
for callback in ("abort", "close"):
    for name, value in {"reject": REJECT, "99": 99, "none": None, "raise": RAISE}.items():
        add(f"{callback}-{name}", "O C H M A M R T L N B E Q",
            behaviour={"returns": {callback: value}})  # fmt: skip

add("mail-rejected-rest-dropped", "O C H M R- T- L- N- B- E- M Q",
    behaviour={"returns": {"envfrom": [REJECT, CONTINUE]}})  # fmt: skip
add("rcpt-rejected-others-go-on", "O C H M R R R T L N B E Q",
    behaviour={"returns": {"envrcpt": [REJECT, TEMPFAIL, CONTINUE]}})  # fmt: skip
add("rcpt-accepted-rest-dropped", "O C H M R R- T- L- N- B- E- M Q",
    behaviour={"returns": {"envrcpt": [ACCEPT, CONTINUE]}})  # fmt: skip
add("rcpt-discarded-then-more", "O C H M R R T A M Q",
    behaviour={"returns": {"envrcpt": [DISCARD, CONTINUE]}})  # fmt: skip
for callback, rest in {
    "data": "L- N- B- E-", "header": "L- N- B- E-", "eoh": "B- E-", "body": "B- E-",
}.items():  # fmt: skip
    for verdict in (REJECT, DISCARD, ACCEPT, TEMPFAIL):
        add(f"{callback}-{verdict}-rest-dropped", PATHS[callback], rest, "M R T L N B E Q",
            behaviour={"returns": {callback: [verdict, CONTINUE]}})  # fmt: skip

# ---- Steps that are not answered ----

add("noreply-decorator", "O C- H- M- R- T- L- L- N- B- E Q", kinds="base",
    behaviour=CLASSES["noreply-everything"])  # fmt: skip
add("noreply-decorator-mta-without-the-bits", OFFERS["no-nr"], "C H M R T L L N B E Q",
    kinds="base", behaviour=CLASSES["noreply-everything"])  # fmt: skip
add("noreply-decorator-v2", offer(2, 0x3F, 0x7F), "C H M R L L N B E Q",
    kinds="base", behaviour=CLASSES["noreply-everything"])  # fmt: skip
add("noreply-low", "O C- H- M- R- T- L- L- N- B- E Q", kinds="low",
    behaviour={"negotiate": {"set": {1: NR}, "return": CONTINUE},
               "returns": {name: NOREPLY for name in ALL if name not in ("eom",)}})  # fmt: skip
add("noreply-low-continue", "O C- H- M- R- T- L- L- N- B- E Q", kinds="low",
    behaviour={"negotiate": {"set": {1: NR}, "return": CONTINUE}})  # fmt: skip
# ---- setreply ----

SETREPLY: dict[str, tuple[int, list[list[Any]]]] = {
    "plain": (REJECT, [["550", "5.7.1", "go away"]]),
    "no-text": (REJECT, [["550", "5.7.1"]]),
    "empty-text": (REJECT, [["550", "5.7.1", ""]]),
    "no-xcode": (REJECT, [["550", None, "x"]]),
    "nothing-but-code": (REJECT, [["550", None]]),
    "three-lines": (REJECT, [["550", "5.7.1", "a", "", "c"]]),
    "two-lines-no-xcode": (REJECT, [["550", None, "a", "b"]]),
    "two-lines-no-xcode-4": (TEMPFAIL, [["450", None, "a", "b"]]),
    "tempfail": (TEMPFAIL, [["450", "4.7.1", "t"]]),
    "421": (TEMPFAIL, [["421", "4.7.0", "closing"]]),
    "450-reject": (REJECT, [["450", "4.7.1", "t"]]),
    "421-reject": (REJECT, [["421", "4.7.0", "t"]]),
    "550-tempfail": (TEMPFAIL, [["550", "5.7.1", "t"]]),
    "550-continue": (CONTINUE, [["550", "5.7.1", "t"]]),
    "550-accept": (ACCEPT, [["550", "5.7.1", "t"]]),
    "550-discard": (DISCARD, [["550", "5.7.1", "t"]]),
    "xcode-of-another-class": (REJECT, [["550", "2.7.1", "t"]]),
    "xcode-4-with-550": (REJECT, [["550", "4.7.1", "t"]]),
    "long-xcode": (REJECT, [["550", "5.123.123", "t"]]),
    "percent-doubled": (REJECT, [["550", "5.7.1", "50%% off"]]),
    "980-bytes": (REJECT, [["550", "5.7.1", "x" * 980]]),
    "981-bytes": (REJECT, [["550", "5.7.1", "x" * 981]]),
    "cr": (REJECT, [["550", "5.7.1", "a\rb"]]),
    "lf": (REJECT, [["550", "5.7.1", "a\nb"]]),
    "lf-in-second-line": (REJECT, [["550", "5.7.1", "a", "b\nc"]]),
    "981-in-second-line": (REJECT, [["550", "5.7.1", "a", "x" * 981]]),
    "32-lines": (REJECT, [["550", "5.7.1"] + [f"line {n}" for n in range(32)]]),
    "utf8": (REJECT, [["550", "5.7.1", "grün"]]),
    "control": (REJECT, [["550", "5.7.1", "a\tb\x01"]]),
    "nul": (REJECT, [["550", "5.7.1", "a\0b"]]),
    "failed-after-good": (REJECT, [["550", "5.7.1", "good"], ["250", "2.0.0", "bad"]]),
    "second-replaces": (REJECT, [["550", "5.7.1", "one"], ["554", "5.7.2", "two"]]),
    "int-code": (REJECT, [[550, "5.7.1", "t"]]),
    "none-code": (REJECT, [[None, "5.7.1", "t"]]),
    **{f"code-{code or 'empty'}": (REJECT, [[code, "5.7.1", "t"]])
       for code in ("250", "354", "55", "5500", "5a0", "5x0", "600", "999", "")},
    **{f"xcode-{number}": (REJECT, [["550", xcode, "t"]])
       for number, xcode in enumerate(("", "abc", "3.7.1", "5.7", "5.7.1.1", "5.1234.1", "5.7.1 ",
                                       "5..1", "5.7.", "05.7.1", " 5.7.1"))},
}  # fmt: skip
#: Base.setreply without a text (API spec 2.7): what we send.
NO_TEXT = {"no-text": "550_5.7.1", "nothing-but-code": "550_"}
for name, (verdict, calls) in SETREPLY.items():
    behaviour = {
        "returns": {"envfrom": [verdict, CONTINUE]},
        "calls": {"envfrom": [["setreply", *call] for call in calls]},
    }
    add(f"setreply-{name}", "O C H M", "A M Q", behaviour=behaviour, kinds="low")
    add(f"setreply-{name}", "O C H M", "A M Q", behaviour=behaviour, kinds="base",
        differs=None if name not in NO_TEXT else Differs(
            "Base.setreply without a text raises TypeError there (API spec 2.7, fix)", "ours",
            f"{O_REPLY} c c r c", f"{O_REPLY} c c yb'{NO_TEXT[name]}\\x00' c"))  # fmt: skip
for name, line in {"alone": "50% off", "three": "50%%% off", "first": "%x", "last": "x%"}.items():
    # Base refuses, the context does not care.
    add(f"setreply-percent-{name}", "O C H M Q", behaviour={
        "returns": {"envfrom": REJECT}, "calls": {"envfrom": [["setreply", "550", "5.7.1", line]]},
    })  # fmt: skip
add("setreply-percent-in-second-line", "O C H M Q", behaviour={
    "returns": {"envfrom": REJECT},
    "calls": {"envfrom": [["setreply", "550", "5.7.1", "a", "b%c"]]},
})  # fmt: skip
add("setreply-in-connect-used-at-rcpt-once", "O C H M R R Q", behaviour={
    "returns": {"envrcpt": REJECT}, "calls": {"connect": [["setreply", "550", "5.7.1", "kept"]]},
})  # fmt: skip
add("setreply-stays-over-a-message", "O C H M A M R Q", behaviour={
    "returns": {"envrcpt": REJECT}, "calls": {"abort": [["setreply", "550", "5.7.1", "kept"]]},
})  # fmt: skip
add("setreply-replaced-by-policy-text", "O C H M Q", behaviour={
    "returns": {"envfrom": RAISE}, "calls": {"envfrom": [["setreply", "450", "4.7.1", "mine"]]},
})  # fmt: skip
for callback, path in PATHS.items():
    add(f"setreply-at-{callback}", path, "Q", behaviour={
        "returns": {callback: REJECT}, "calls": {callback: [["setreply", "550", "5.7.1", "no"]]},
    })  # fmt: skip

# ---- Modifications ----

ACTIONS: dict[str, list[Any]] = {
    "addheader": ["addheader", "X-A", "v"],
    "addheader-first": ["addheader", "X-A", "v", 0],
    "addheader-3": ["addheader", "X-A", "v", 3],
    "addheader-minus": ["addheader", "X-A", "v", -5],
    "addheader-max": ["addheader", "X-A", "v", 2147483647],
    "addheader-empty-value": ["addheader", "X-A", ""],
    "addheader-empty-name": ["addheader", "", "v"],
    "addheader-odd-name": ["addheader", "X:Y Z", "v"],
    "addheader-folded": ["addheader", "X-A", "a\n\tb\r\n c"],
    "addheader-leading-blank": ["addheader", "X-A", " v"],
    "addheader-utf8": ["addheader", "X-A", "grün"],
    "addheader-65535": ["addheader", "X", {"repeat": ["v", 65532]}],
    "addheader-65536": ["addheader", "X", {"repeat": ["v", 65533]}],
    "addheader-none": ["addheader", "X-A", None],
    "addheader-int": ["addheader", "X-A", 5],
    "addheader-nul": ["addheader", "X-A", "a\0b"],
    "chgheader": ["chgheader", "Subject", 1, "new"],
    "chgheader-delete": ["chgheader", "Subject", 1, ""],
    "chgheader-none": ["chgheader", "Subject", 1, None],
    "chgheader-0": ["chgheader", "Subject", 0, "new"],
    "chgheader-max": ["chgheader", "Subject", 2147483647, "new"],
    "chgheader-negative": ["chgheader", "Subject", -1, "new"],
    "chgheader-empty-name": ["chgheader", "", 1, "new"],
    "addrcpt": ["addrcpt", "<r@e>"],
    "addrcpt-params": ["addrcpt", "<r@e>", "NOTIFY=NEVER"],
    "addrcpt-empty-params": ["addrcpt", "<r@e>", ""],
    "addrcpt-none-params": ["addrcpt", "<r@e>", None],
    "addrcpt-empty": ["addrcpt", ""],
    "delrcpt": ["delrcpt", "<c@d>"],
    "delrcpt-empty": ["delrcpt", ""],
    "replacebody": ["replacebody", {"b": b"new\r\n".hex()}],
    "replacebody-text": ["replacebody", "grün\r\n"],
    "replacebody-empty": ["replacebody", {"b": ""}],
    "replacebody-nul": ["replacebody", {"b": b"a\0b".hex()}],
    "replacebody-65535": ["replacebody", {"repeat": ["x", 65535]}],
    "replacebody-65536": ["replacebody", {"repeat": ["x", 65536]}],
    "replacebody-131071": ["replacebody", {"repeat": ["x", 131071]}],
    "replacebody-none": ["replacebody", None],
    "chgfrom": ["chgfrom", "<n@e>"],
    "chgfrom-params": ["chgfrom", "<n@e>", "SIZE=1"],
    "chgfrom-null-sender": ["chgfrom", "<>"],
    "chgfrom-empty": ["chgfrom", ""],
    "quarantine": ["quarantine", "why"],
    "quarantine-empty": ["quarantine", ""],
    "progress": ["progress"],
}
for name, call in ACTIONS.items():
    add(f"eom-{name}", FULL, behaviour={"calls": {"eom": [call]}},
        differs=None if name != "replacebody-none" else Differs(
            "the TypeError says what is taken, which is more than there (API spec 1.10)",
            "either", f"{O_REPLY} c c c c c c c c c",
            f"{O_REPLY} c c c c c c c c c"))  # fmt: skip
ONE_OF_EACH = [
    ["addheader", "X-A", "v"],
    ["addheader", "X-A", "v", 0],
    ["chgheader", "Subject", 1, "new"],
    ["addrcpt", "<r@e>"],
    ["addrcpt", "<r@e>", "NOTIFY=NEVER"],
    ["delrcpt", "<c@d>"],
    ["replacebody", {"b": b"1\r\n".hex()}],
    ["replacebody", {"b": b"2\r\n".hex()}],
    ["chgfrom", "<n@e>"],
    ["quarantine", "why"],
]
for verdict in (CONTINUE, REJECT, DISCARD, ACCEPT, TEMPFAIL):
    add(f"eom-all-actions-{verdict}", FULL,
        behaviour={"calls": {"eom": ONE_OF_EACH}, "returns": {"eom": verdict}})  # fmt: skip
add("eom-all-actions-then-raise", FULL,
    behaviour={"calls": {"eom": ONE_OF_EACH}, "returns": {"eom": RAISE}})  # fmt: skip
add("eom-actions-in-two-messages", "O C H M R T L N B E M R T L N B E Q",
    behaviour={"calls": {"eom": ONE_OF_EACH}})  # fmt: skip
for callback, path in PATHS.items():
    if callback != "eom":
        add(f"actions-in-{callback}", path, "Q", behaviour={"calls": {callback: ONE_OF_EACH}})
add("actions-in-negotiate", "O C Q", kinds="low",
    behaviour={"calls": {"negotiate": ONE_OF_EACH}})  # fmt: skip
for callback in ("abort", "close"):
    add(f"actions-in-{callback}", "O C H M A Q", behaviour={"calls": {callback: ONE_OF_EACH}})
for bit in range(9):
    add(f"actions-with-only-bit-{bit}", offer(6, 1 << bit, 0x1FFFFF), "C H M R T L N B E Q",
        behaviour={"calls": {"eom": ONE_OF_EACH}})  # fmt: skip
add("actions-with-narrowed-bits", FULL, behaviour={
    "negotiate": {"set": {0: 1, 1: 0}, "return": CONTINUE}, "calls": {"eom": ONE_OF_EACH},
})  # fmt: skip
add("actions-with-v2-offer", offer(2, 0x3F, 0x7F), "C H M R L N B E Q",
    behaviour={"calls": {"eom": ONE_OF_EACH}})  # fmt: skip
for callback, path in PATHS.items():
    if callback != "eom":
        replies = " ".join([O_REPLY] + ["c"] * (len(path.split()) - 1))
        add(f"progress-in-{callback}", path, "Q", behaviour={"calls": {callback: [["progress"]]}},
            kinds="base", differs=Differs(
                "progress outside eom is sent, and Sendmail then closes the connection to the "
                "filter; ours sends nothing and succeeds (wire spec row 169)", "ours",
                f"{replies[:-1]}p c", replies))  # fmt: skip
add("eom-progress-first", FULL, behaviour={
    "calls": {"eom": [["progress"], ["addheader", "A", "b"], ["progress"]]},
})  # fmt: skip
add("priv", FULL, kinds="low", behaviour={
    "calls": {"connect": [["getsymval", "none"]], "eom": [["getsymval", "i"]]},
})  # fmt: skip

# ---- Trouble ----

X_BEFORE = ("raw", struct.pack(">I", 1) + b"X")
for name, raw in {
    "letter-X": X_BEFORE,
    "letter-1": ("raw", struct.pack(">I", 1) + b"\x01"),
    "letter-0x80": ("raw", struct.pack(">I", 1) + b"\x80"),
    "length-0x80000000": ("raw", bytes.fromhex("8000000045")),
    "empty-C": ("C-", b""),
    "empty-H": ("H-", b""),
    "empty-M": ("M-", b""),
    "empty-U": ("U-", b""),
    "empty-D": ("D", b""),
}.items():
    add(f"bad-{name}-before-connect", "O", raw)
    if name != "empty-C":
        add(f"bad-{name}-after-helo", "O C H", raw)
    if name not in ("empty-C", "empty-H", "empty-M"):
        add(f"bad-{name}-after-mail", "O C H M", raw)
for name, data in {"no-nul": b"A", "name-only": b"A\0", "no-second-nul": b"A\0b",
                   "empty-name": b"\0v\0", "empty": b""}.items():  # fmt: skip
    add(f"bad-header-{name}", "O C H M R T", ("L-", data))
add("bad-rcpt-no-nul", "O C H M", ("R-", b"<c@d>"))
for size in (65535, 65536):
    # A header, because both mail servers cut bodies (wire spec 1.2).
    add(f"header-packet-of-{size}-bytes", "O C H M R T", ("L?", b"X\0" + b"v" * (size - 3) + b"\0"),
        differs=None if size == 65535 else Differs(
            "a packet of more than 65535 bytes, which Postfix sends for a long header, ends the "
            "connection; we take up to 1 MiB (wire spec row 4)", "ours",
            f"{O_REPLY} c c c c c X", f"{O_REPLY} c c c c c c",
            f"{EVENTS['data']} abort close", f"{EVENTS['header']} abort close"))  # fmt: skip
add("bad-empty-body", "O C H M R T L N", ("B-", b""))

# ---- The state machine's faults (wire spec 3.3), each in a process of its own, because some of
# ---- its state is shared by all connections ----


def fault(name: str, *steps: Step, differs: Differs | None = None, **rest: Any) -> None:
    """Add a scenario of kind base for which both sides are started anew."""
    add(name, *steps, kinds=rest.pop("kinds", "base"), differs=differs, **rest)
    SCENARIOS[-1] = replace(SCENARIOS[-1], fresh=True)


CHMR = "negotiate connect hello envfrom envrcpt"
fault("q1-unknown-command-before-content", "O C H M R U L? Q", behaviour=without("data"),
      differs=Differs(
          "an unknown SMTP command between RCPT and the content makes libmilter drop the content "
          "without a reply, so any client can make the mail server wait (Q1, row 112)", "ours",
          "O6,1ff,600 c c c c c -", "O6,1ff,600 c c c c c c",
          f"{CHMR} unknown close", f"{CHMR} unknown header abort close"))  # fmt: skip
fault("q2-unknown-command-then-eof", "O C H M R U",
      differs=Differs(
          "after an unknown SMTP command in a message, the end of the connection calls close "
          "without abort (Q2, row 113)", "ours",
          f"{O_REPLY} c c c c c", f"{O_REPLY} c c c c c",
          f"{CHMR} unknown close", f"{CHMR} unknown abort close"))  # fmt: skip
fault("q2-unknown-command-after-data", "O C H M R T U L? Q",
      differs=Differs(
          "an unknown SMTP command after DATA aborts the message (row 114)", "ours",
          f"{O_REPLY} c c c c c c -", f"{O_REPLY} c c c c c c c",
          f"{CHMR} data abort unknown close",
          f"{CHMR} data unknown header abort close"))  # fmt: skip
fault("q2-unknown-command-then-abort", "O C H U A M Q",
      differs=Differs(
          "an abort packet after an unknown SMTP command calls abort, though no message is open "
          "(wire spec 3.4)", "ours",
          f"{O_REPLY} c c c c", f"{O_REPLY} c c c c",
          "negotiate connect hello unknown abort envfrom abort close",
          "negotiate connect hello unknown envfrom abort close"))  # fmt: skip
fault("q3-no-headers-no-eoh", "O C H M R T B? Q", behaviour=without("eoh"),
      differs=Differs(
          "a message without headers, for a filter without eoh, is dropped without a reply: the "
          "mail server waits (Q3, row 117)", "ours",
          "O6,1ff,440 c c c c c -", "O6,1ff,440 c c c c c c",
          f"{CHMR} data abort close", f"{CHMR} data body abort close"))  # fmt: skip
fault("q4-abort-twice", "O C H M A A Q", behaviour=without("unknown"),
      differs=Differs(
          "a second abort packet, as Postfix sends it, calls abort again (Q4, row 104)", "ours",
          "O6,1ff,500 c c c", "O6,1ff,500 c c c",
          "negotiate connect hello envfrom abort abort close",
          "negotiate connect hello envfrom abort close"))  # fmt: skip
fault("q6-abort-without-message", "O H A H Q", behaviour=without("envfrom"),
      differs=Differs(
          "a filter without envfrom gets abort with no message open (Q6, row 119)", "ours",
          "O6,1ff,404 c c", "O6,1ff,404 c c",
          "negotiate hello abort hello close", "negotiate hello hello close"))  # fmt: skip
fault("k-after-message", "O C H M R T L N B E K C H M Q")
fault("q7-k-after-mail", "O C H M K C? Q",
      differs=Differs(
          "QUIT_NC inside a message drops the CONNECT that follows, and calls no close (Q7, row "
          "109)", "ours",
          f"{O_REPLY} c c c -", f"{O_REPLY} c c c c",
          "negotiate connect hello envfrom abort close",
          "negotiate connect hello envfrom abort close connect close"))  # fmt: skip
fault("k-then-quit", "O C H M R T L N B E K Q")
fault("q11-helo-without-nul", "O C", ("H?", b"h.ex"), "M? Q",
      differs=Differs(
          "a malformed HELO is dropped without a reply; we close (Q11, row 65)", "ours",
          f"{O_REPLY} c - c", f"{O_REPLY} c X",
          "negotiate connect envfrom abort close", "negotiate connect close"))  # fmt: skip
fault("length-0", "O C H M R", ("raw", bytes.fromhex("000000004e")), "B? Q",
      differs=Differs(
          "a length of 0 is taken for 1, and what follows is read as it comes; we close (row 5)",
          "ours", f"{O_REPLY} c c c c c c", f"{O_REPLY} c c c c X",
          f"{CHMR} eoh body abort close", f"{CHMR} abort close"))  # fmt: skip
fault("length-ffffffff", "O C H M R", ("raw", bytes.fromhex("ffffffff4e")), "B? Q",
      differs=Differs(
          "a length of 4 GiB wraps to no data at all, and the packet is taken; we close (row 6)",
          "ours", f"{O_REPLY} c c c c c c", f"{O_REPLY} c c c c X",
          f"{CHMR} eoh body abort close", f"{CHMR} abort close"))  # fmt: skip
TWICE = (
    "the verdict of a body callback for data in the end-of-message packet is sent twice (row 137)"
)
for verdict, word in ((REJECT, "r"), (TEMPFAIL, "t"), (ACCEPT, "a"), (DISCARD, "d")):
    fault(f"body-in-eom-packet-returns-{verdict}", "O C H M R T L N", ("E?", b"tail"), "Q",
          behaviour={"returns": {"body": verdict}},
          differs=Differs(
              TWICE, "ours",
              f"{O_REPLY} c c c c c c c {word} {word}", f"{O_REPLY} c c c c c c c {word}",
              f"{EVENTS['body']} close", f"{EVENTS['body']} close"))  # fmt: skip
fault("body-in-eom-packet-skip", "O C H M R T L N", ("E?", b"tail"), "Q",
      behaviour={"returns": {"body": SKIP}},
      differs=Differs(
          "SKIP for data in the end-of-message packet is sent, twice, and eom does not run; we go "
          "on to eom (row 138)", "ours",
          f"{O_REPLY} c c c c c c c s s", f"{O_REPLY} c c c c c c c c",
          f"{EVENTS['body']} close", f"{EVENTS['body']} eom close"))  # fmt: skip
HIDDEN = (
    "an exception or a verdict in a no-reply callback is lost: the message passes, or the mail "
    "server waits for ever; we apply it at the next step that is answered (design, section 5)"
)
for callback, path, before, bit, passed in (
    ("connect", "O C- H?", "", 0x1000, "hello close"),
    ("hello", "O C H- M?", "c", 0x2000, "envfrom abort close"),
):
    # Their session goes on after a verdict here, so that the next step is answered, and passes.
    fault(
        f"noreply-{callback}-raises",
        path,
        "Q",
        behaviour={"decorate": {callback: [["noreply"]]}, "returns": {callback: [RAISE, CONTINUE]}},
        differs=Differs(
            HIDDEN,
            "ours",
            f"O6,1ff,{0x400 | bit:x} {before} c".replace("  ", " "),
            f"O6,1ff,{0x400 | bit:x} {before} {UNTRAPPED}".replace("  ", " "),
            f"{EVENTS[callback]} {passed}",
            f"{EVENTS[callback]} close",
        ),
    )
for callback, path, bit in (
    ("envfrom", "O C H M- R?", 0x4000),
    ("envrcpt", "O C H M R- T?", 0x8000),
    ("data", "O C H M R T- L?", 0x10000),
    ("header", "O C H M R T L- N?", 0x80),
    ("eoh", "O C H M R T L N- B?", 0x40000),
    ("body", "O C H M R T L N B- E?", 0x80000),
):
    replies = " ".join([f"O6,1ff,{0x400 | bit:x}"] + ["c"] * (len(path.split()) - 3))
    # A verdict on a recipient does not end the message for the filter, so abort is owed.
    owed = "abort " if callback == "envrcpt" else ""
    for name, value, word in (("raises", RAISE, UNTRAPPED), ("rejects", REJECT, UNTRAPPED)):
        # A REJECT under @noreply is a RuntimeError of the decorator's (API spec 2.5).
        theirs = "c" if callback == "envrcpt" else "-"
        fault(f"noreply-{callback}-{name}", path, "Q",
            behaviour={"decorate": {callback: [["noreply"]]}, "returns": {callback: value}},
            differs=Differs(HIDDEN, "ours", f"{replies} {theirs}", f"{replies} {word}",
                            f"{EVENTS[callback]} "
                            f"{'data abort ' if callback == 'envrcpt' else ''}close",
                            f"{EVENTS[callback]} {owed}close"))  # fmt: skip
    low = {"negotiate": {"set": {1: bit}, "return": CONTINUE},
           "returns": {callback: [REJECT, CONTINUE]},
           "calls": {callback: [["setreply", "550", "5.7.1", "no"]]}}  # fmt: skip
    replies = replies.replace(f"{0x400 | bit:x}", f"{bit:x}")
    fault(f"noreply-{callback}-reject", path, "Q", kinds="low", behaviour=low,
        differs=Differs(HIDDEN, "ours", f"{replies} {theirs}",
                        f"{replies} yb'550_5.7.1_no\\x00'",
                        f"{EVENTS[callback]} "
                        f"{'data abort ' if callback == 'envrcpt' else ''}close",
                        f"{EVENTS[callback]} {owed}close"))  # fmt: skip
for callback, path, tail in (
    ("envfrom", "O C H M-", "A M- Q"),
    ("envrcpt", "O C H M R-", "A M Q"),
    ("data", "O C H M R T-", "A M Q"),
    ("header", "O C H M R T L-", "A M Q"),
    ("eoh", "O C H M R T L N-", "A M Q"),
    ("body", "O C H M R T L N B-", "A M Q"),
):
    # What is dropped with the message needs no answer any more.
    fault(f"noreply-{callback}-raises-then-abort", path, tail,
          behaviour={"decorate": {callback: [["noreply"]]},
                     "returns": {callback: [RAISE, CONTINUE]}})  # fmt: skip
fault("noreply-emulated-reject", OFFERS["no-nr"], "C H M Q",
      behaviour={"decorate": {"hello": [["noreply"]]}, "returns": {"hello": REJECT}},
      differs=Differs(HIDDEN, "ours", f"{O_REPLY} c c c", f"{O_REPLY} c c {UNTRAPPED}",
                      "negotiate connect hello envfrom abort close",
                      "negotiate connect hello close"))  # fmt: skip
OUT_OF_ORDER = (
    "a command out of order is dropped without a reply; no mail server does this, and waiting "
    "helps nobody, so we end the connection (wire spec 3.4, D/C)"
)
for name, steps, theirs, ours, their_names, our_names in (
    ("second-offer", "O C H O? M? Q", "c c - c", "c c X",
     "negotiate connect hello envfrom abort close", "negotiate connect hello close"),
    ("second-connect", "O C C? H? Q", "c - c", "c X",
     "negotiate connect hello close", "negotiate connect close"),
    ("rcpt-without-mail", "O C H R? M? Q", "c c - c", "c c X",
     "negotiate connect hello envfrom abort close", "negotiate connect hello close"),
    ("data-without-rcpt", "O C H M T? Q", "c c c -", "c c c X",
     "negotiate connect hello envfrom abort close",
     "negotiate connect hello envfrom abort close"),
    ("rcpt-after-data", "O C H M R T R? Q", "c c c c c -", "c c c c c X",
     f"{CHMR} data abort close", f"{CHMR} data abort close"),
    ("data-twice", "O C H M R T T? Q", "c c c c c -", "c c c c c X",
     f"{CHMR} data abort close", f"{CHMR} data abort close"),
    ("eoh-twice", "O C H M R T L N N? Q", "c c c c c c c -", "c c c c c c c X",
     f"{EVENTS['eoh']} abort close", f"{EVENTS['eoh']} abort close"),
    ("header-after-body", "O C H M R T L N B L? Q", "c c c c c c c c -", "c c c c c c c c X",
     f"{EVENTS['body']} abort close", f"{EVENTS['body']} abort close"),
    ("eom-twice", "O C H M R T L N B E E? M? Q", "c c c c c c c c c - c", "c c c c c c c c c X",
     f"{EVENTS['eom']} envfrom abort close", f"{EVENTS['eom']} close"),
):  # fmt: skip
    fault(f"order-{name}", steps, differs=Differs(
        OUT_OF_ORDER, "either", f"{O_REPLY} {theirs}", f"{O_REPLY} {ours}",
        their_names, our_names))  # fmt: skip
UNDECODABLE = (
    "a name that is not UTF-8 never reaches the filter there: the message is tempfailed; here it "
    "arrives with surrogates (API spec 1.5, superset)"
)
fault("connect-latin1", "O", ("C", b"h\xe9\x004\x04\xd2192.0.2.1\x00"), "Q", differs=Differs(
    UNDECODABLE, "ours", f"{O_REPLY} {UNTRAPPED}", f"{O_REPLY} c",
    "negotiate close", "negotiate connect close"))  # fmt: skip
fault("connect-unix-latin1", "O", ("C", b"h\x00L\x00\x00/\xe9\x00"), "Q", differs=Differs(
    UNDECODABLE, "ours", f"{O_REPLY} {UNTRAPPED}", f"{O_REPLY} c",
    "negotiate close", "negotiate connect close"))  # fmt: skip
fault("helo-latin1", "O C", ("H", b"h\xe9\x00"), "Q", differs=Differs(
    UNDECODABLE, "ours", f"{O_REPLY} c {UNTRAPPED}", f"{O_REPLY} c c",
    "negotiate connect close", "negotiate connect hello close"))  # fmt: skip
fault("header-name-latin1", "O C H M R T", ("L", b"X\xe9\x00v\x00"), "Q", differs=Differs(
    UNDECODABLE, "ours", f"{O_REPLY} c c c c c {UNTRAPPED}", f"{O_REPLY} c c c c c c",
    f"{CHMR} data close", f"{CHMR} data header abort close"))  # fmt: skip
fault("unknown-latin1", "O C H", ("U", b"F\xe9\x00"), "Q", differs=Differs(
    UNDECODABLE, "ours", f"{O_REPLY} c c {UNTRAPPED}", f"{O_REPLY} c c c",
    "negotiate connect hello close", "negotiate connect hello unknown close"))  # fmt: skip
fault(
    "macro-latin1",
    "O",
    ("D", b"Ca\x00\xe9\x00"),
    "C Q",
    behaviour={"macros": ["a"]},
    differs=Differs(
        "a macro whose value is not UTF-8 raises UnicodeDecodeError there; here the text has "
        "surrogates (API spec 1.10, superset)",
        "ours",
        f"{O_REPLY} c",
        f"{O_REPLY} c",
    ),
)
SURROGATES = (
    "text with lone surrogates, which is how bytes that are not UTF-8 arrive, cannot be written "
    "back there (UnicodeEncodeError); here it goes out as the bytes that it was (API spec 1.10)"
)
fault("addheader-surrogates", FULL, behaviour={"calls": {"eom": [["addheader", "X", "\udce9"]]}},
      differs=Differs(
          SURROGATES, "ours", f"{O_REPLY} c c c c c c c c c",
          f"{O_REPLY} c c c c c c c c hb'X\\x00\\xe9\\x00' c"))  # fmt: skip
fault("addheader-bytes", FULL, kinds="low",
      behaviour={"calls": {"eom": [["addheader", {"b": "58"}, {"b": "e9"}]]}},
      differs=Differs(
          "bytes for text are a TypeError there, and taken as they are here (API spec 1.10)",
          "ours", f"{O_REPLY} c c c c c c c c c",
          f"{O_REPLY} c c c c c c c c hb'X\\x00\\xe9\\x00' c"))  # fmt: skip
fault("setreply-surrogates", "O C H M Q", behaviour={
    "returns": {"envfrom": REJECT}, "calls": {"envfrom": [["setreply", "550", "5.7.1", "\udce9"]]},
}, differs=Differs(
    SURROGATES, "ours", f"{O_REPLY} c c r",
    f"{O_REPLY} c c yb'550_5.7.1_\\xe9\\x00'"))  # fmt: skip
fault("decode-bytes-handler-raises", "O C H", ("M", b"<\xe9@b>\0"), "Q", behaviour={
    "decorate": {"envfrom": [["decode", "bytes"]]},
    "returns": {"envfrom": {"raise": "UnicodeDecodeError"}},
}, differs=Differs(
    "a UnicodeDecodeError out of a handler that asked for bytes is taken for a failure to decode, "
    "and the handler is called a second time (API spec 2.6, fix)", "ours",
    f"{O_REPLY} c c {UNTRAPPED}", f"{O_REPLY} c c {UNTRAPPED}",
    "negotiate connect hello envfrom envfrom close",
    "negotiate connect hello envfrom close"))  # fmt: skip
fault("system-exit", "O C H? M? Q", behaviour={"returns": {"hello": {"raise": "SystemExit"}}},
      closes="ours", differs=Differs(
          "SystemExit in a callback ends the process there, or leaves it hanging; here it is an "
          "exception like any other (API spec 1.9, choice)", "ours",
          f"{O_REPLY} c - - never-closed", f"{O_REPLY} c {UNTRAPPED} c",
          "negotiate connect hello",
          "negotiate connect hello envfrom abort close"))  # fmt: skip
