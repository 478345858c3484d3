"""Suites of filters as their authors wrote them for pymilter: run on both sides.

    python testkit_suites.py

The filters and their tests are made up, in the manner of such filters. Each test's outcome is one
JSON line: {"name": ..., "result": "ok" or [type, text]}. After them come the records of many
messages, drawn from a fixed seed, fed to a filter that does as the dice say.
"""

# ruff: noqa: D106, PT009, PT027, UP031  # written as such suites are

import io
import json
import os
import random
import shutil
import sys
import tempfile
import unittest
from email.header import Header

import Milter
import mime
from Milter.test import TestBase
from Milter.testctx import TestCtx

HAM = b"""\
Received: from mail.example.net by mx.example.org
From: "Carol" <carol@example.net>
To: dave@example.org
Subject: minutes of the meeting
X-Mailer: abacus
Message-ID: <1@example.net>

See below.
>From here on it is dull.
"""

SPAM = HAM.replace(b"minutes of the meeting", b"BUY NOW").replace(b"See below.", b"Buy!")

MULTIPART = b"""\
From: carol@example.net
To: dave@example.org
Subject: two parts
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="==x"

--==x
Content-Type: text/plain

text
--==x
Content-Type: application/octet-stream; name="a.bin"

data
--==x--
"""


# A filter that marks spam by its subject, as many do.


class SubjectMilter(Milter.Base):
    """Rejects some senders, tags some subjects, keeps a copy of the message."""

    def __init__(self):
        self.id = Milter.uniqueID()
        self.fp = None

    def log(self, *msg):
        print(self.id, *msg)

    @Milter.noreply
    def connect(self, hostname, family, hostaddr):
        self.hostname = hostname
        self.peer = hostaddr
        return Milter.CONTINUE

    def hello(self, hostname):
        self.helo = hostname
        if "." not in hostname:
            self.setreply("550", "5.7.1", "Your HELO name has no dot: %s" % hostname)
            return Milter.REJECT
        return Milter.CONTINUE

    def envfrom(self, mailfrom, *params):
        self.mailfrom = mailfrom
        self.params = Milter.dictfromlist(params)
        self.rcpts = []
        self.user = self.getsymval("{auth_authen}")
        self.fp = io.BytesIO()
        self.spam = False
        if mailfrom == "<bad@example.net>":
            self.setreply("550", "5.7.1", "go away")
            return Milter.REJECT
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, to, *params):
        self.rcpts.append(to)
        return Milter.CONTINUE

    def header(self, name, value):
        if name.lower() == "subject" and value.startswith("BUY"):
            self.spam = True
        self.fp.write(("%s: %s\n" % (name, value)).encode("utf-8", "surrogateescape"))
        return Milter.CONTINUE

    def eoh(self):
        self.fp.write(b"\n")
        return Milter.CONTINUE

    def body(self, chunk):
        self.fp.write(chunk)
        return Milter.CONTINUE

    def eom(self):
        self.fp.seek(0)
        msg = mime.message_from_file(self.fp)
        self.parts = len(msg.get_payload()) if msg.is_multipart() else 1
        if not self.spam:
            return Milter.ACCEPT
        self.addheader("X-Spam", "yes", 0)
        self.chgheader("Subject", 1, "[SPAM] " + msg["subject"])
        self.chgheader("X-Mailer", 1, "")
        self.addrcpt("<quarantine@example.org>")
        for rcpt in self.rcpts:
            self.delrcpt(rcpt)
        self.chgfrom("<>")
        self.replacebody(b"This was spam.\n")
        self.replacebody(b"It is no more.\n")
        return Milter.CONTINUE

    def close(self):
        self.fp = None
        return Milter.CONTINUE


class TestSubjectMilter(TestBase, SubjectMilter):
    """As the mixin is documented."""

    def __init__(self):
        TestBase.__init__(self)
        SubjectMilter.__init__(self)


class MixinTestCase(unittest.TestCase):
    """With TestBase."""

    def setUp(self):
        self.milter = TestSubjectMilter()

    def tearDown(self):
        self.milter._close()

    def test_accepts(self):
        rc = self.milter.connect("mail.example.net", "mail.example.net", "192.0.2.1")
        self.assertEqual(Milter.CONTINUE, rc)
        rc = self.milter.feedMsg("ham")
        self.assertEqual(Milter.ACCEPT, rc)
        self.assertFalse(self.milter._bodyreplaced)
        self.assertFalse(self.milter._headerschanged)
        self.assertEqual([], self.milter._addrcpt)
        self.assertEqual(HAM, self.milter._body.getvalue())
        self.assertEqual("<spam@adv.com>", self.milter._sender)

    def test_peer(self):
        self.milter.connect("mail.example.net", "mail.example.net", "192.0.2.1")
        self.assertEqual("192.0.2.1", self.milter.peer[0])
        self.assertEqual("mail.example.net", self.milter.hostname)

    def test_refuses_helo(self):
        rc = self.milter.connect(helo="spammer")
        self.assertEqual(Milter.REJECT, rc)
        reply = ("550", "5.7.1", "Your HELO name has no dot: spammer")
        self.assertEqual(reply, self.milter._reply)

    def test_refuses_sender(self):
        self.milter.connect(helo="a.b")
        rc = self.milter.feedMsg("ham", "bad@example.net")
        self.assertEqual(Milter.REJECT, rc)
        self.assertEqual(("550", "5.7.1", "go away"), self.milter._reply)

    def test_tags(self):
        self.milter.connect(helo="a.b")
        rc = self.milter.feedMsg("spam", "carol@example.net", "dave@example.org", "e@example.org")
        self.assertEqual(Milter.CONTINUE, rc)
        self.assertTrue(self.milter._bodyreplaced)
        self.assertTrue(self.milter._headerschanged)
        self.assertTrue(self.milter._envfromchanged)
        self.assertEqual("<>", self.milter._sender)
        self.assertEqual(["<quarantine@example.org>"], self.milter._addrcpt)
        self.assertEqual(["<dave@example.org>", "<e@example.org>"], self.milter._delrcpt)
        msg = self.milter._msg
        self.assertEqual(["BUY NOW", "[SPAM] BUY NOW"], msg.get_all("subject"))
        self.assertEqual("yes", msg["x-spam"])
        self.assertIsNone(msg["x-mailer"])
        body = self.milter._body
        body.seek(0)
        again = mime.message_from_file(body)
        self.assertEqual("This was spam.\nIt is no more.\n", again.get_payload())
        self.assertEqual("abacus", again["x-mailer"])

    def test_parts(self):
        self.milter.connect(helo="a.b")
        with open("test/multipart", "rb") as fp:
            self.milter.feedFile(fp, sender="a@b", rcpt="c@d")
        self.assertEqual(2, self.milter.parts)
        self.assertEqual(["<c@d>"], self.milter.rcpts)

    def test_user(self):
        self.milter.setsymval("{auth_authen}", "batman")
        self.milter.connect(helo="a.b")
        self.milter.feedMsg("ham")
        self.assertEqual("batman", self.milter.user)
        self.assertIsNone(self.milter.getsymval("{other}"))

    def test_twice(self):
        self.milter.connect(helo="a.b")
        self.milter.feedMsg("spam")
        self.milter.feedMsg("ham")
        self.assertFalse(self.milter._bodyreplaced)
        self.assertFalse(self.milter._headerschanged)

    def test_not_outside_of_eom(self):
        with self.assertRaises(IOError):
            self.milter.addheader("a", "b")
        with self.assertRaisesRegex(IOError, "chgfrom not called from eom"):
            self.milter.chgfrom("<>")

    def test_missing_file(self):
        self.assertRaises(IOError, self.milter.feedMsg, "missing")

    def test_noreply_returns_continue(self):
        self.milter._protocol = Milter.P_NR_CONN
        self.assertEqual(Milter.CONTINUE, self.milter.envrcpt_alone())


def envrcpt_alone(self):
    """What a @noreply callback returns when it is called directly."""
    self.rcpts = []
    return SubjectMilter.envrcpt(self, "<a@b>")


TestSubjectMilter.envrcpt_alone = envrcpt_alone


class ContextTestCase(unittest.TestCase):
    """With TestCtx."""

    def setUp(self):
        Milter.factory = SubjectMilter
        self.ctx = TestCtx()

    def test_accepts(self):
        self.assertEqual(Milter.CONTINUE, self.ctx._connect(helo="a.b"))
        self.assertEqual(Milter.ACCEPT, self.ctx._feedMsg("ham"))
        self.assertFalse(self.ctx._bodyreplaced)
        self.assertEqual(HAM, self.ctx._body.getvalue())
        self.ctx._close()

    def test_refuses_helo(self):
        self.assertEqual(Milter.REJECT, self.ctx._connect())
        self.assertEqual("550", self.ctx._reply[0])
        self.assertIsNone(self.ctx.getpriv()._ctx)

    def test_tags(self):
        self.ctx._connect(helo="a.b", host="x.y", ip="2001:db8::1")
        rc = self.ctx._feedMsg("spam", "carol@example.net", "dave@example.org")
        self.assertEqual(Milter.CONTINUE, rc)
        self.assertEqual([("<quarantine@example.org>", None)], self.ctx._addrcpt)
        self.assertEqual(["<dave@example.org>"], self.ctx._delrcpt)
        self.assertEqual("[SPAM] BUY NOW", self.ctx._msg.get_all("subject")[-1])
        self.assertEqual("<>", self.ctx._sender)
        self.assertTrue(self.ctx._body.getvalue().endswith(b"\n\nThis was spam.\nIt is no more.\n"))

    def test_steps(self):
        self.ctx._setsymval("{auth_authen}", "batman")
        self.ctx._connect(helo="a.b")
        self.assertEqual(Milter.CONTINUE, self.ctx._envfrom("<a@b>", "SIZE=10", "BODY=8BITMIME"))
        filter = self.ctx.getpriv()
        self.assertEqual({"SIZE": "10", "BODY": "8BITMIME"}, filter.params)
        self.assertEqual("batman", filter.user)
        self.assertEqual(Milter.CONTINUE, self.ctx._envrcpt("<c@d>"))
        self.assertEqual(Milter.CONTINUE, self.ctx._data())
        self.assertEqual(Milter.CONTINUE, self.ctx._header("Subject", "hello"))
        self.assertEqual(Milter.CONTINUE, self.ctx._header("X", "h\udce9"))
        self.assertEqual(Milter.CONTINUE, self.ctx._eoh())
        self.assertEqual(Milter.CONTINUE, self.ctx._feed_body(io.BytesIO(b"text\n")))
        self.assertEqual(b"Subject: hello\nX: h\xe9\n\ntext\n", filter.fp.getvalue())
        self.assertEqual(Milter.ACCEPT, self.ctx._eom())

    def test_header_object(self):
        self.ctx._connect(helo="a.b")
        self.ctx._envfrom("<a@b>")
        self.ctx._header("X", Header("h\udce9", "unknown-8bit"))
        self.assertEqual(b"X: h\xe9\n", self.ctx.getpriv().fp.getvalue())

    def test_abort(self):
        self.ctx._connect(helo="a.b")
        self.ctx._envfrom("<a@b>")
        self.ctx._abort()
        self.assertIsNone(self.ctx.getpriv().fp)
        self.assertIsNone(self.ctx.getpriv()._ctx)

    def test_many_connections(self):
        for i in range(10):
            self.ctx._connect(helo="a%d.b" % i)
            self.assertEqual(Milter.ACCEPT, self.ctx._feedMsg("ham"))
            self.ctx._close()

    def test_8bit(self):
        self.ctx._connect(helo="a.b")
        self.ctx._feedFile(io.BytesIO(b"Subject: \xc3\xa9\xe9\n\nx\xff\n"))
        self.assertEqual(b"Subject: \xc3\xa9\xe9\n\nx\xff\n", self.ctx._body.getvalue())

    def test_bad_ip(self):
        self.assertRaises(ValueError, self.ctx._connect, "a", "b", "c")

    def test_negotiated(self):
        self.ctx._connect(helo="a.b")
        self.assertTrue(self.ctx._protocol & Milter.P_NOUNKNOWN)
        self.assertFalse(self.ctx._protocol & Milter.P_NOHDRS)

    def test_not_outside_of_eom(self):
        self.ctx._connect(helo="a.b")
        with self.assertRaisesRegex(IOError, "addrcpt not called from eom"):
            self.ctx.addrcpt("<a@b>", None)

    # What pymilter's kit does not do.

    def test_fixed_hostaddr(self):
        self.ctx._connect(helo="a.b", ip="192.0.2.1")
        self.assertEqual("192.0.2.1", self.ctx.getpriv().peer[0])

    def test_fixed_macro_in_header(self):
        class Reads(SubjectMilter):
            def header(self, name, value):
                self.queue_id = self.getsymval("i")
                return Milter.CONTINUE

        Milter.factory = Reads
        self.ctx._setsymval("i", "QID")
        self.ctx._connect(helo="a.b")
        self.ctx._header("a", "b")
        self.assertEqual("QID", self.ctx.getpriv().queue_id)

    def test_fixed_macro_before_negotiation(self):
        self.ctx._setsymval("i", "QID")
        self.assertEqual("QID", self.ctx.getsymval("i"))

    def test_fixed_default_opts(self):
        self.ctx._connect(helo="a.b")
        self.assertEqual([0x1FF, 0x1FFFFF, 0, 0], TestCtx.default_opts)

    def test_fixed_skip(self):
        class Skips(SubjectMilter):
            def body(self, chunk):
                return Milter.SKIP

        Milter.factory = Skips
        self.ctx._connect(helo="a.b")
        self.assertEqual(Milter.ACCEPT, self.ctx._feedMsg("ham"))

    def test_fixed_noreply(self):
        noreply, Milter.NOREPLY = Milter.NOREPLY, Milter.milter.NOREPLY
        try:
            self.assertEqual(Milter.CONTINUE, self.ctx._connect(helo="a.b"))
        finally:
            Milter.NOREPLY = noreply

    def test_fixed_quarantine(self):
        class Holds(SubjectMilter):
            def eom(self):
                self.quarantine("why")
                return Milter.ACCEPT

        Milter.factory = Holds
        self.ctx._connect(helo="a.b")
        self.assertEqual(Milter.ACCEPT, self.ctx._feedMsg("ham"))

    def test_fixed_non_ascii_header(self):
        self.ctx._connect(helo="a.b")
        self.assertEqual(Milter.CONTINUE, self.ctx._envfrom("<a@b>"))
        self.assertEqual(Milter.CONTINUE, self.ctx._header("X", "\u00e9"))


class PickyMilter(Milter.Base):
    """Asks for certain macros."""

    @Milter.noreply
    @Milter.symlist("i", "{x}")
    def envfrom(self, f, *s):
        self.inside = [self.getsymval(name) for name in ("i", "{x}", "{y}")]
        return Milter.CONTINUE

    @Milter.noreply
    def envrcpt(self, to, *s):
        self.outside = [self.getsymval(name) for name in ("i", "{x}", "{y}")]
        return Milter.CONTINUE

    def eom(self):
        return Milter.ACCEPT


class TestPickyMilter(TestBase, PickyMilter):
    """With the mixin."""

    def __init__(self):
        TestBase.__init__(self)


class MacroTestCase(unittest.TestCase):
    """@symlist."""

    def test_context(self):
        Milter.factory = PickyMilter
        ctx = TestCtx()
        for name in ("i", "{x}", "{y}"):
            ctx._setsymval(name, name.upper())
        ctx._connect()
        self.assertEqual(Milter.ACCEPT, ctx._feedMsg("ham"))
        self.assertEqual(["I", "{X}", None], ctx.getpriv().inside)
        self.assertEqual(["I", "{X}", "{Y}"], ctx.getpriv().outside)
        self.assertEqual({b"i", b"{x}"}, ctx._symlist[Milter.M_ENVFROM])

    def test_fixed_mixin(self):
        milter = TestPickyMilter()
        for name in ("i", "{x}", "{y}"):
            milter.setsymval(name, name.upper())
        milter.connect()
        self.assertEqual(Milter.ACCEPT, milter.feedMsg("ham"))
        self.assertEqual(["I", "{X}", None], milter.inside)
        self.assertEqual(["I", "{X}", "{Y}"], milter.outside)

    def test_fixed_mixin_8bit(self):
        milter = TestPickyMilter()
        milter.connect()
        self.assertEqual(Milter.ACCEPT, milter.feedFile(io.BytesIO(b"Subject: \xe9\n\nx\n")))

    def test_fixed_log(self):
        milter = TestPickyMilter()
        milter.log("a", "b")
        milter._close()
        with open("test/milter.log") as log:
            self.assertIn("a b\n", log.readlines())


class DefangTestCase(unittest.TestCase):
    """A filter that does no more than mime.defang, as the oldest do."""

    class Defanger(Milter.Base):
        def envfrom(self, f, *s):
            self.fp = io.BytesIO()
            return Milter.CONTINUE

        @Milter.decode("bytes")
        def header(self, name, value):
            self.fp.write(name.encode() + b": " + value + b"\n")
            return Milter.CONTINUE

        def eoh(self):
            self.fp.write(b"\n")
            return Milter.CONTINUE

        def body(self, chunk):
            self.fp.write(chunk)
            return Milter.CONTINUE

        def _headerchange(self, msg, name, value):
            if value:
                self.addheader(name, value)
            else:
                for i in range(len(msg.getheaders(name) or ()), 0, -1):
                    self.chgheader(name, i, "")

        def eom(self):
            self.fp.seek(0)
            msg = mime.message_from_file(self.fp)
            msg.headerchange = self._headerchange
            mime.defang(msg)
            if not msg.ismodified():
                return Milter.ACCEPT
            out = io.BytesIO()
            msg.dump(out)
            out.seek(0)
            self.replacebody(
                mime.message_from_file(out).get_payload().encode()
                if not msg.is_multipart()
                else out.getvalue().partition(b"\n\n")[2]
            )
            return Milter.ACCEPT

    def feed(self, data):
        Milter.factory = self.Defanger
        ctx = TestCtx()
        ctx._connect()
        self.assertEqual(Milter.ACCEPT, ctx._feedFile(io.BytesIO(data)))
        return ctx

    def test_clean(self):
        ctx = self.feed(MULTIPART)
        self.assertFalse(ctx._bodyreplaced)
        self.assertEqual(MULTIPART, ctx._body.getvalue())

    def test_part(self):
        ctx = self.feed(MULTIPART.replace(b"a.bin", b"a.exe"))
        self.assertTrue(ctx._bodyreplaced)
        self.assertFalse(ctx._headerschanged)
        ctx._body.seek(0)
        parts = mime.message_from_file(ctx._body).get_payload()
        self.assertEqual("text", parts[0].get_payload())
        self.assertNotIn("data", parts[1].get_payload().split())
        self.assertIn("a.exe", parts[1].get_payload())

    def test_whole(self):
        data = b"Subject: x\nContent-Type: application/x-msdos; name=a.exe\n\nMZ\n"
        ctx = self.feed(data)
        self.assertTrue(ctx._bodyreplaced)
        self.assertTrue(ctx._headerschanged)
        self.assertEqual("text/plain", ctx._msg.get_content_type())

    def test_html(self):
        data = b"Content-Type: text/html\n\n<p>a</p><script>b</script>\n"
        ctx = self.feed(data)
        self.assertTrue(ctx._bodyreplaced)
        self.assertNotIn(b"script>b", ctx._body.getvalue())


# Messages by the dice.


class Dice(Milter.Base):
    """Does what `plan` says and writes down what it gets."""

    plan = {}
    record = []

    def act(self, step, *args):
        self.record.append([step, *(repr(arg) for arg in args)])
        for name, arguments in self.plan.get("do " + step, ()):
            try:
                result = getattr(self, name)(*arguments)
            except Exception as error:
                result = [type(error).__name__, str(error)]
            self.record.append([name, repr(result)])
        return self.plan.get(step, Milter.CONTINUE)

    def connect(self, hostname, family, hostaddr):
        return self.act("connect", hostname)  # the address is another on purpose

    def hello(self, hostname):
        return self.act("hello", hostname)

    def envfrom(self, f, *s):
        return self.act("envfrom", f, *s)

    def envrcpt(self, to, *s):
        return self.act("envrcpt", to, *s)

    def header(self, field, value):
        return self.act("header", field, value)

    def eoh(self):
        return self.act("eoh")

    def body(self, blk):
        return self.act("body", blk)

    def eom(self):
        return self.act("eom")

    def abort(self):
        return self.act("abort")

    def close(self):
        return self.act("close")


class DiceBench(TestBase, Dice):
    """With the mixin."""

    def __init__(self):
        TestBase.__init__(self)


def draw_message(dice):
    """Return a message that pymilter's kit can feed: some headers, short lines, ASCII headers."""
    eol = dice.choice([b"\n", b"\n", b"\r\n"])
    lines = []
    for _ in range(dice.randint(1, 6)):
        name = dice.choice([b"Subject", b"Received", b"X-A", b"x-a", b"To"])
        words = [dice.choice([b"a", b"bc", b"=?x?=", b'"q"', b"50%", b"<a@b>", b";"])]
        for _ in range(dice.randint(0, 6)):
            words.append(dice.choice([b" ", b" ", b"  ", eol + b" ", eol + b"\t"]))
            words.append(dice.choice([b"d", b"ef", b"g:h", b"i\\j", b"(c)"]))
        lines.append(name + b": " + b"".join(words))
    size = dice.choice([0, 0, 1, 3, 50, 600])
    body = b"".join(
        bytes(dice.choices(b"abc -=.\t\x00\xe9\xff", k=dice.randint(0, 70))) + eol
        for _ in range(size)
    )
    return eol.join([*lines, b"", b""]) + body


ACTIONS = [
    ("addheader", ("X-B", "1")),
    ("addheader", ("X-A", "2", 0)),
    ("chgheader", ("Subject", 1, "s")),
    ("chgheader", ("X-A", 1, "")),
    ("chgheader", ("X-Missing", 2, "")),
    ("delrcpt", ("<r@x>",)),
    ("addrcpt", ("<q@x>",)),
    ("replacebody", (b"one\n",)),
    ("replacebody", (b"",)),
    ("chgfrom", ("<n@x>",)),
    ("setreply", ("550", "5.7.1", "a", "b")),
    ("progress", ()),
    ("getsymval", ("{m}",)),
    ("getsymval", ("{none}",)),
]


def draw_plan(dice):
    """Return what the filter does at random."""
    plan = {}
    if dice.random() < 0.3:
        step = dice.choice(["connect", "hello", "envfrom", "envrcpt", "header", "eoh", "body"])
        plan[step] = dice.choice([Milter.REJECT, Milter.TEMPFAIL, Milter.ACCEPT, Milter.DISCARD])
    plan["eom"] = dice.choice([Milter.CONTINUE, Milter.ACCEPT, Milter.REJECT, Milter.DISCARD])
    plan["do eom"] = dice.choices(ACTIONS, k=dice.randint(0, 8))
    if dice.random() < 0.3:
        # Not where a macro cannot be read there.
        plan["do " + dice.choice(["envfrom", "envrcpt", "eoh", "connect"])] = dice.choices(
            ACTIONS, k=3
        )
    return plan


def state(kit):
    """Return what suites look at."""
    return {
        "body": repr(kit._body.getvalue()) if kit._body else None,
        # Without a body, pymilter's mixin has not parsed the message yet.
        "msg": kit._msg.items() if kit._body else None,
        **{
            name: repr(getattr(kit, name))
            for name in (
                "_sender",
                "_addrcpt",
                "_delrcpt",
                "_reply",
                "_bodyreplaced",
                "_headerschanged",
                "_envfromchanged",
            )
        },
    }


def play(seed):
    """Return the record of some messages, fed with both tools."""
    dice = random.Random(seed)
    messages = [(draw_message(dice), draw_plan(dice)) for _ in range(2)]
    rcpts = ["a@x", "b@x", "c@x"][: dice.randint(1, 3)]
    Dice.record = record = []
    bench, ctx = DiceBench(), TestCtx()
    bench.setsymval("{m}", "M")
    ctx._setsymval("{m}", "M")
    Milter.factory = Dice
    Dice.plan = messages[0][1]
    for connect, feed, kit in (
        (bench.connect, bench.feedFile, bench),
        (ctx._connect, ctx._feedFile, ctx),
    ):
        verdict = connect("h.x", "me.x")
        record.append(["connected", verdict, state(kit)])
        if verdict != Milter.CONTINUE:
            continue
        for message, plan in messages:
            Dice.plan = plan
            verdict = feed(io.BytesIO(message), "s@x", *rcpts)
            record.append(["fed", verdict, state(kit)])
    if ctx.getpriv()._ctx:
        ctx._abort()
    bench._close()
    return record


def main():
    """Run the suites, then the messages, in a directory of their own."""
    results = []
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    try:
        os.mkdir("test")
        for name, data in {"ham": HAM, "spam": SPAM, "multipart": MULTIPART}.items():
            with open("test/" + name, "wb") as fp:
                fp.write(data)
        for case in (MixinTestCase, ContextTestCase, MacroTestCase, DefangTestCase):
            for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
                outcome = unittest.TestResult()
                test.run(outcome)
                name = test.id().partition(".")[2]
                failed = outcome.errors + outcome.failures
                result = failed[0][1].strip().splitlines()[-1] if failed else "ok"
                results.append({"name": name, "result": result})
        for seed in range(300):
            results.append({"name": "seed %d" % seed, "result": play(seed)})
    finally:
        os.chdir("/")
        shutil.rmtree(directory)
    for each in results:
        sys.stdout.write("\n" + json.dumps(each))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
