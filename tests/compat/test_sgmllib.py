"""Milter.sgmllib: the events of API spec 3.11, and what is new: no AssertionError, linear time."""

from __future__ import annotations

import pytest

from Milter import sgmllib


class Recorder(sgmllib.SGMLParser):
    """Writes down what it is told; knows an element foo."""

    def __init__(self):
        self.events = []
        super().__init__()

    def handle_data(self, data):
        self.events.append(("data", data))

    def handle_comment(self, data):
        self.events.append(("comment", data))

    def handle_decl(self, decl):
        self.events.append(("decl", decl))

    def unknown_decl(self, data):
        self.events.append(("unknown decl", data))

    def handle_pi(self, data):
        self.events.append(("pi", data))

    def unknown_starttag(self, tag, attrs):
        self.events.append(("start", tag, attrs))

    def unknown_endtag(self, tag):
        self.events.append(("end", tag))

    def unknown_entityref(self, ref):
        self.events.append(("entity", ref))

    def unknown_charref(self, ref):
        self.events.append(("char", ref))

    def report_unbalanced(self, tag):
        self.events.append(("unbalanced", tag))

    def start_foo(self, attrs):
        self.events.append(("start_foo", attrs))

    def end_foo(self):
        self.events.append(("end_foo",))

    def do_bar(self, attrs):
        self.events.append(("do_bar", attrs))


def events(text, parser=Recorder):
    """Parse all of a text."""
    recorder = parser()
    recorder.feed(text)
    recorder.close()
    return recorder.events


ROWS = [
    (
        "a<b c=1 D=\"x y\" e='&amp;&#65;&zz;&#300;' f>t</b>",
        [
            ("data", "a"),
            ("start", "b", [("c", "1"), ("d", "x y"), ("e", "&A&zz;&#300;"), ("f", "f")]),
            ("data", "t"),
            ("end", "b"),
        ],
    ),
    ("<foo><q></foo>", [("start_foo", []), ("start", "q", []), ("end_foo",)]),
    ("</foo>", [("unbalanced", "foo")]),
    ("<bar x></bar>", [("do_bar", [("x", "x")]), ("end", "bar")]),
    ("<b/t/ x", [("start", "b", []), ("data", "t"), ("end", "b"), ("data", " x")]),
    ("<b><>", [("start", "b", []), ("start", "b", [])]),
    ("<foo></>", [("start_foo", []), ("end_foo",)]),
    ("&nbsp;", [("entity", "nbsp")]),
    ("&#200;", [("char", "200")]),
    ("&#x41;", [("data", "&#"), ("data", "x41;")]),
    ("<3", [("data", "<"), ("data", "3")]),
    ("<b", [("data", "<b")]),
    ("<!DOCTYPE html>", [("decl", "DOCTYPE html")]),
    ("<![if x]>", [("unknown decl", "if x")]),
    ("<!-- c -->", [("comment", " c ")]),
    ("<?p i>", [("pi", "p i")]),
]


@pytest.mark.parametrize(("text", "expected"), ROWS)
def test_events(text, expected):
    """A text gives the calls of the table in API spec 3.11."""
    assert expected == events(text)


@pytest.mark.parametrize("text", ["<!foo $>", "<! x>", "<![3]>", "<!DOCTYPE a b=(c)>"])
def test_malformed_declaration_is_a_parse_error(text):
    """A declaration that makes no sense raises SGMLParseError, a RuntimeError, and nothing else."""
    with pytest.raises(sgmllib.SGMLParseError):
        events(text)
    assert issubclass(sgmllib.SGMLParseError, RuntimeError)


def test_error_may_return():
    """Where a subclass lets error() return, the declaration is handed over and parsing goes on."""

    class Lenient(Recorder):
        def error(self, message):
            pass

    assert [("unknown decl", "foo $"), ("data", "x")] == events("<!foo $>x", Lenient)


def test_literal_mode_ends_at_an_end_tag():
    """After setliteral() markup is data up to the next end tag."""

    class Literal(Recorder):
        def start_lit(self, attrs):
            self.setliteral()

        def end_lit(self):
            self.events.append(("end_lit",))

    data = "".join(e[1] for e in events("<lit>a<b>&amp;</lit>", Literal) if e[0] == "data")
    assert "a<b>&amp;" == data
    assert ("end_lit",) == events("<lit>a<b></lit>", Literal)[-1]


def test_nomoretags():
    """After setnomoretags() everything is data, end tags too."""

    class Plain(Recorder):
        def do_plaintext(self, attrs):
            self.setnomoretags()

    assert [("data", "a</b>&amp;")] == events("<plaintext>a</b>&amp;", Plain)


def test_pieces_give_the_same_tags():
    """A text fed character by character gives the same tags, and the same data put together."""
    text = "a<b c='d'>e&amp;f</b><!-- g --><!DOCTYPE h><foo/i/&zz;"
    recorder = Recorder()
    for char in text:
        recorder.feed(char)
    recorder.close()

    def joined(found):
        result = []
        for event in found:
            if event[0] == "data" and result and result[-1][0] == "data":
                result[-1] = ("data", result[-1][1] + event[1])
            else:
                result.append(event)
        return result

    assert joined(events(text)) == joined(recorder.events)


def test_public_names():
    """The module has the names of API spec 3.11, and takes nothing from _markupbase."""
    assert {"SGMLParser", "SGMLParseError"} == set(sgmllib.__all__)
    assert callable(sgmllib.TestSGMLParser)
    assert callable(sgmllib.test)
    assert (object,) == sgmllib.SGMLParser.__bases__
    assert {"lt", "gt", "amp", "quot", "apos"} == set(sgmllib.SGMLParser.entitydefs)


def test_convert_charref_knows_ascii_only():
    """convert_charref gives a character for 0 to 127, None for others and for what is no number."""
    parser = sgmllib.SGMLParser()
    assert ["A", "\x7f", None, None, None] == [
        parser.convert_charref(name) for name in ("65", "127", "128", "x41", "9" * 10_000)
    ]


@pytest.mark.parametrize(
    "unit", ["<", "<!--", "<?", "<a ", "<a b='", "&a", "</", "<b/", "<![if ", "<foo></q>", "<!a '"]
)
def test_hostile_text_is_parsed(unit):
    """Half a megabyte of one unfinished construct is parsed; quadratic time would not come back."""
    recorder = Recorder()
    recorder.error = lambda message: None
    recorder.feed(unit * (500_000 // len(unit)))
    recorder.close()
    assert recorder.events
    assert "" == recorder.rawdata
