"""Evaluate many small expressions and print the results, one JSON line each: run on both sides.

    python api_probe.py

Each line is {"name": ..., "result": ...}: the repr of a value, or {"raises": [type, text]}. Nothing
here needs a connection; what happens on one is in scenarios.py.
"""

import inspect
import json
import sys

import Milter
import milter


class FakeContext:
    """A context that writes down the calls that Base makes."""

    def __init__(self):
        self.calls = []
        self.priv = None

    def __getattr__(self, name):
        def method(*args):
            self.calls.append((name, args))
            return f"result of {name}"

        return method

    def setpriv(self, value):
        self.priv = type(value).__name__

    def getpriv(self):
        return self.priv


class Everything(Milter.Base):
    """A filter with every callback."""

    def connect(self, hostname, family, hostaddr):
        return self.verdict

    def hello(self, hostname):
        return self.verdict

    @Milter.noreply
    def envfrom(self, sender, *params):
        self.seen = (sender, *params)
        return self.verdict

    @Milter.decode("bytes")
    def envrcpt(self, recipient, *params):
        self.seen = (recipient, *params)
        return self.verdict

    @Milter.decode("replace")
    def header(self, name, value):
        self.seen = (name, value)
        return self.verdict

    verdict = Milter.CONTINUE


def base(actions=Milter.CURR_ACTS, protocol=0):
    """Return an attached filter and its context."""
    instance = Everything()
    context = FakeContext()
    instance._setctx(context)
    instance._actions = actions
    instance._protocol = protocol
    return instance, context


def record(instance, context, function):
    """Call *function*, and return its result with what the context was asked for."""
    try:
        result = function()
    except Exception as error:
        result = [type(error).__name__, str(error)]
    return [result, context.calls]


def action(method, *args, actions=Milter.CURR_ACTS):
    """Return what Base.<method>(*args) does to its context."""
    instance, context = base(actions)
    return record(instance, context, lambda: getattr(instance, method)(*args))


def negotiate(klass, opts, protocol_from=None):
    """Return what a class's negotiate makes of *opts*."""
    instance = klass()
    instance._setctx(FakeContext())
    result = instance.negotiate(opts)
    return [result, opts, instance._actions, instance._protocol]


def decorated(decorator, name):
    """Apply a decorator to a function of that name, and show what it made."""

    def function(self, *args):
        """The documentation."""
        return self.verdict

    function.__name__ = name
    made = decorator(function)
    attributes = {key: value for key, value in vars(made).items() if key != "__wrapped__"}
    return [made.__name__, made.__doc__, "__wrapped__" in vars(made), sorted(attributes.items())]


def through(decorator, name, verdict, protocol):
    """Call a decorated callback that returns *verdict* where *protocol* was negotiated."""

    def function(self, *args):
        return verdict

    function.__name__ = name
    klass = type("Decorated", (Milter.Base,), {name: decorator(function)})
    instance = klass()
    instance._setctx(None)
    instance._protocol = protocol
    return getattr(instance, name)()


def mask(**members):
    """Return the protocol mask of a class with these members."""
    return hex(type("Fresh", (Milter.Base,), members).protocol_mask())


def callbacks_in_order():
    """Set and unset each callback of module milter, and show what was there before."""
    result = []
    for name in ("connect", "helo", "envfrom", "envrcpt", "header", "eoh", "body", "eom", "abort",
                 "close"):  # fmt: skip
        setter = getattr(milter, f"set_{name}_callback")
        result.append([name, setter(len) is None, setter(None) is len, setter(None) is None])
    return result


def bytes_hook(name, *args):
    """Return what the handler behind Base.<name>_bytes sees."""
    instance, _ = base()
    getattr(instance, f"{name}_bytes")(*args)
    return [instance.seen, "header_bytes" in vars(instance)]


def star():
    """Return the names that a star import brings, without dunders."""
    space = {}
    exec("from Milter import *", space)
    return sorted(name for name in space if not name.startswith("__"))


def signature(name):
    """Return how a function or method of Milter may be called: names, kinds, defaults."""
    target = Milter
    for part in name.split("."):
        target = getattr(target, part)
    parameters = inspect.signature(target).parameters.values()
    return [
        (
            # The name of what only collects is nobody's business.
            str(parameter.kind)
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            else parameter.name,
            "required" if parameter.default is parameter.empty else repr(parameter.default),
        )
        for parameter in parameters
        # What is only taken by keyword is an addition that legacy code never passes.
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]


def runmilter_calls(*args, **kwargs):
    """Return the order in which runmilter calls module milter."""
    calls = []
    names = [name for name in dir(milter) if name.startswith("set")] + [
        "register", "opensocket", "main", "getversion",
    ]  # fmt: skip
    saved = {name: getattr(milter, name) for name in names}

    def fake(name):
        def function(*a, **k):
            shown = [item if isinstance(item, (str, int, bool)) else callable(item) for item in a]
            calls.append([name, shown, sorted(k)])
            return (1, 0, 1) if name == "getversion" else None

        return function

    try:
        for name in names:
            setattr(milter, name, fake(name))
        try:
            result = Milter.runmilter(*args, **kwargs)
        except Exception as error:
            result = [type(error).__name__, str(error)]
    finally:
        for name, function in saved.items():
            setattr(milter, name, function)
    return [result, calls]


def detached():
    """Return the state of a filter that was attached and is not any more."""
    instance, _ = base()
    result = instance._setctx(None)
    return [result, instance._ctx, instance._actions, instance._protocol]


def setreply_keywords():
    """Return what setreply with keywords does to the context."""
    instance, context = base()
    return record(instance, context, lambda: instance.setreply("550", xcode="5.7.1", msg="no"))


def attempt(spec):
    """Return how a socket of this specification fails to be opened."""
    milter.setconn(spec)
    milter.register("x")
    try:
        milter.opensocket(1)
    except milter.error as error:
        # Ours adds the reason after a colon.
        return ["milter.error", str(error).split(":")[0]]
    return "opened"


NO_ARGUMENT = object()
PROBES = []


def probe(name, function):
    """Add a probe."""
    PROBES.append((name, function))


NAMES = sorted(name for name in dir(milter) if not name.startswith("_"))
probe("milter names", lambda: NAMES)
for name in NAMES:
    if isinstance(getattr(milter, name), int):
        probe(f"milter.{name}", lambda name=name: getattr(milter, name))
        probe(f"Milter.{name}", lambda name=name: getattr(Milter, name))
    else:
        probe(f"Milter.{name} is milter's", lambda name=name: getattr(Milter, name) is getattr(
            milter, name))  # fmt: skip
probe("Milter names", lambda: sorted(
    name for name in dir(Milter)
    if not name.startswith("_") and not (
        inspect.ismodule(getattr(Milter, name)) and name not in ("milter", "os", "re", "sys",
                                                                 "thread"))))  # fmt: skip
probe("error", lambda: [milter.error.__name__, milter.error.__module__, milter.error.__bases__,
                        str(milter.error("x")), milter.error is Milter.error])  # fmt: skip
probe("no Context", lambda: milter.Context)
probe("getversion", milter.getversion)
probe("getdiag", milter.getdiag)
probe("callbacks", callbacks_in_order)
for name in ("set_connect_callback", "set_close_callback"):
    for value in (5, "x"):
        probe(f"{name}({value!r})", lambda name=name, value=value: getattr(milter, name)(value))
INTEGER_FUNCTIONS = ("set_flags", "settimeout", "setbacklog", "setdbg", "set_exception_policy")
for name in INTEGER_FUNCTIONS:
    for value in (1, 4, 0, -1, True, 2, 99, 2**40, 1.5, "1", None, NO_ARGUMENT):
        args = () if value is NO_ARGUMENT else (value,)
        shown = "" if value is NO_ARGUMENT else repr(value)
        # setdbg above 0 would trace to stdout.
        if name == "setdbg" and args and isinstance(value, int) and 0 < value < 2**31:
            continue
        probe(f"{name}({shown})", lambda name=name, args=args: getattr(milter, name)(*args))
probe("set_exception_policy back", lambda: milter.set_exception_policy(milter.TEMPFAIL))
probe("setbacklog back", lambda: milter.setbacklog(20))
for value in ("", "foo:bar", "unix:/nowhere/x", None, b"x", "a\0b", 5):
    probe(f"setconn({value!r})", lambda value=value: milter.setconn(value))
for args in (("x",), ("",), ("x" * 5000,), ("x", len), ("x", None), ("x", len, len, len),
             ("x", None, None, None), (None,), (b"x",), (), (5,)):  # fmt: skip
    probe(f"register{str(args)[:40]}", lambda args=args: milter.register(*args))
for key in ("unknown", "data", "negotiate"):
    for value in (len, None):
        probe(f"register({key}={value})", lambda key=key, value=value: milter.register(
            "x", **{key: value}))  # fmt: skip
probe("register(other=)", lambda: milter.register("x", other=len))
probe("setconn(keyword)", lambda: milter.setconn(name="x"))
for args in ((), (None,), (256,), (-1,), ("x",), (1, 2)):
    probe(f"opensocket{args}", lambda args=args: milter.opensocket(*args))
for spec in ("unix:/no/such/directory/s", "foo:bar", "unix:" + "p" * 200, "unix:/dev/null",
             "inet:1@no-such-host.invalid"):  # fmt: skip
    probe(f"opensocket {spec[:40]}", lambda spec=spec: attempt(spec))

# ---- Milter ----

for name in ("OPTIONAL_CALLBACKS", "MACRO_CALLBACKS"):
    # Only that of MACRO_CALLBACKS has an order that matters (API spec 2.1).
    probe(name, lambda name=name: sorted(getattr(Milter, name).items()))
probe("MACRO_CALLBACKS order", lambda: list(Milter.MACRO_CALLBACKS))
probe("R", lambda: [Milter.R.pattern, Milter.R.findall("a%b%%c")])
probe("factory", lambda: Milter.factory is Milter.Milter)
probe("DisabledAction", lambda: [Milter.DisabledAction.__bases__, str(Milter.DisabledAction("X"))])
probe("uniqueID", lambda: [Milter.uniqueID(), Milter.uniqueID(), Milter.uniqueID()])
for name in ("runmilter", "dictfromlist", "param2dict", "envcallback", "negotiate_callback",
             "connect_callback", "close_callback", "noreply", "nocallback", "decode", "symlist",
             "enable_protocols", "rejected_recipients", "header_leading_space", "decode_mask",
             "Base.addheader", "Base.chgheader", "Base.addrcpt", "Base.delrcpt", "Base.replacebody",
             "Base.chgfrom", "Base.quarantine", "Base.progress", "Base.getsymval", "Base.setreply",
             "Base.setsymlist", "Base.negotiate", "Base.protocol_mask", "Base.log", "Base.eom",
             "Base.abort", "Base.close", "Base.connect", "Base.hello", "Base.envfrom",
             "Base.envrcpt", "Base.data", "Base.header", "Base.eoh", "Base.body", "Base.unknown",
             "Base.envfrom_bytes", "Base.envrcpt_bytes", "Base.header_bytes", "Base._setctx",
             "Milter.connect", "Milter.hello", "Milter.envfrom", "Milter.envrcpt", "Milter.header",
             "Milter.eoh", "Milter.eom", "Milter.log"):  # fmt: skip
    probe(f"signature {name}", lambda name=name: signature(name))
for items in (["SIZE=10", "body=8BitMime", "RET", "=x", "A=", "B=c=d"], [], [""], ["a=1", "A=2"],
              [b"SIZE=1"], ("x=y",), None):  # fmt: skip
    for name in ("dictfromlist", "param2dict"):
        probe(f"{name}({items})", lambda n=name, items=items: getattr(Milter, n)(items))
for items in (("<a@b>", "SIZE=10", "ret=full", "SMTPUTF8", "=x"), ("<a@b>",), (), ("a=b", "c=d")):
    probe(f"envcallback{items}", lambda items=items: Milter.envcallback(
        lambda *args, **kwargs: [args, sorted(kwargs.items())], items))  # fmt: skip
for bits, names in ((0x3, ["ADDHDRS", "CHGBODY"]), (0, ["ADDHDRS"]), (0x1, []), (0x13, ["ADDHDRS"]),
                    (0x1, ["NO_SUCH"]), (0x1FF, ["ADDHDRS", "SETSYMLIST"])):  # fmt: skip
    probe(f"decode_mask({bits}, {names})", lambda b=bits, n=names: Milter.decode_mask(b, n))
for name in ("connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body", "unknown",
             "eom", "abort", "close", "nonsense"):  # fmt: skip
    for decorator in ("noreply", "nocallback"):
        probe(f"{decorator} on {name}",
              lambda d=decorator, n=name: decorated(getattr(Milter, d), n))  # fmt: skip
        for verdict in (Milter.CONTINUE, Milter.REJECT, None):
            for protocol in (0, 0x1FFFFF):
                probe(f"{decorator} {name} {verdict} {protocol}",
                      lambda d=decorator, n=name, v=verdict, p=protocol: through(
                          getattr(Milter, d), n, v, p))  # fmt: skip
    probe(f"symlist on {name}", lambda n=name: decorated(Milter.symlist("i", "{j}"), n))
    probe(f"decode on {name}", lambda n=name: decorated(Milter.decode("replace"), n))
    probe(f"milter_protocol of Base.{name}",
          lambda n=name: getattr(getattr(Milter.Base, n), "milter_protocol", None))  # fmt: skip
    probe(f"milter_protocol of Milter.{name}",
          lambda n=name: getattr(getattr(Milter.Milter, n), "milter_protocol", None))  # fmt: skip
probe("symlist of six", lambda: decorated(Milter.symlist(*"abcdef"), "connect"))
probe("symlist of none", lambda: decorated(Milter.symlist(), "connect"))
probe("noreply after decode", lambda: decorated(
    lambda f: Milter.noreply(Milter.decode("bytes")(f)), "header"))  # fmt: skip
probe("decode after noreply", lambda: decorated(
    lambda f: Milter.decode("bytes")(Milter.noreply(f)), "header"))  # fmt: skip


def one(self, *args):
    """A callback."""
    return Milter.CONTINUE


for name in ("connect", "hello", "envfrom", "envrcpt", "data", "header", "eoh", "body", "unknown",
             "eom", "abort"):  # fmt: skip
    probe(f"mask with {name}", lambda n=name: mask(**{n: one}))
probe("mask of Everything", lambda: hex(Everything.protocol_mask()))
probe(
    "mask of enabled",
    lambda: hex(
        Milter.rejected_recipients(
            Milter.header_leading_space(type("T", (Milter.Base,), {"envrcpt": one}))
        ).protocol_mask()
    ),
)
probe("enable_protocols returns", lambda: Milter.enable_protocols(
    type("T", (Milter.Base,), {}), 0).__name__)  # fmt: skip
probe("mask attribute", lambda: hex(type(
    "T", (Milter.Base,), {"_protocol_mask": 0x123}).protocol_mask()))  # fmt: skip
for opts in ([0x1FF, 0x1FFFFF, 5, 6], [1, 2, 3], [1, 2, 3, 4, 5], [], (1, 2, 3, 4), None,
             [0, 0, 0, 0], [0x1FF, 0, 0, 0], [0x1FF, 0xFFFFFFFF, 0, 0]):  # fmt: skip
    probe(
        f"negotiate {opts}",
        lambda o=opts: negotiate(
            type("T", (Milter.Base,), {"envfrom": one}), list(o) if isinstance(o, list) else o
        ),
    )
probe("attributes before", lambda: sorted(vars(Milter.Base())))
probe("attributes after", lambda: [sorted(vars(base()[0])), base()[0]._actions, base()[1].priv])
probe("no _ctx before", lambda: Milter.Base()._ctx)
probe("detached", detached)
for name, args in {
    "hello": ("h",), "connect": ("h", 2, ("a", 1)), "envfrom": ("f",), "envrcpt": ("t",),
    "data": (), "header": ("n", "v"), "eoh": (), "body": (b"",), "unknown": ("c",), "eom": (),
    "abort": (), "close": (), "log": ("a", "b"),
}.items():  # fmt: skip
    probe(f"Base.{name}", lambda n=name, a=args: getattr(Milter.Base(), n)(*a))
CALLS = [
    ("addheader", "X", "v"), ("addheader", "X", "v", 0), ("addheader", "X", "v", 2),
    ("chgheader", "X", 1, "v"),
    ("chgheader", "X", 1, None), ("addrcpt", "<r>"), ("addrcpt", "<r>", "A=B"),
    ("addrcpt", "<r>", ""), ("addrcpt", "<r>", None), ("delrcpt", "<r>"), ("replacebody", b"x"),
    ("chgfrom", "<f>"), ("chgfrom", "<f>", "A=B"), ("quarantine", "why"), ("progress",),
    ("getsymval", "i"), ("setreply", "550", "5.7.1", "no"), ("setreply", "550", None, "no"),
    ("setreply", "550", "5.7.1", "a", "b", "c"), ("setreply", "550", "5.7.1", "50%"),
    ("setreply", "550", "5.7.1", "50%%"), ("setreply", "550", "5.7.1", "50%%%"),
    ("setreply", "550", "5.7.1", "%%", "%"), ("setreply", "550", "5.7.1", "%%%%"),
]  # fmt: skip
for method, *args in CALLS:
    probe(f"Base.{method}{tuple(args)}", lambda m=method, a=args: action(m, *a))
    probe(f"Base.{method}{tuple(args)} disabled", lambda m=method, a=args: action(
        m, *a, actions=0))  # fmt: skip
probe(
    "Base.addrcpt without ADDRCPT_PAR",
    lambda: [
        action("addrcpt", "<r>", params, actions=Milter.ADDRCPT) for params in ("A=B", "", None)
    ],
)
for args in ((0, *"abcdef"), (0, "a b c d e f"), (0,), (9, "x")):
    # How the names are handed to the context is a documented difference; that they are is not.
    probe(f"Base.setsymlist{args}", lambda a=args: [
        action("setsymlist", *a)[0], len(action("setsymlist", *a)[1])])  # fmt: skip
probe("Base.setsymlist disabled", lambda: action("setsymlist", 0, "a", actions=0xFF))
probe("Base.setreply keywords", setreply_keywords)
for args in ((b"<a@b>", b"SIZE=1"), (b"<\xe9@b>", b"SIZE=1"), (b"<a@b>", b"X=\xe9"),
             ("<ü@b>".encode(),)):  # fmt: skip
    probe(f"envfrom_bytes{args}", lambda a=args: bytes_hook("envfrom", *a))
    probe(f"envrcpt_bytes{args}", lambda a=args: bytes_hook("envrcpt", *a))
for value in (b"v", b"h\xe9", "ü".encode(), b""):
    probe(f"header_bytes({value})", lambda v=value: bytes_hook("header", "X", v))
probe("envfrom_bytes()", lambda: bytes_hook("envfrom"))
probe("runmilter", lambda: runmilter_calls("name", "unix:/x"))
probe("runmilter timeout", lambda: runmilter_calls("name", "unix:/x", 5, False))
probe("runmilter keywords", lambda: runmilter_calls("name", socketname="x", timeout=1, rmsock=0))
probe("runmilter None timeout", lambda: runmilter_calls("name", "unix:/x", None))
probe("runmilter negative timeout", lambda: runmilter_calls("name", "unix:/x", -1))
probe("star import", star)
# The last one, as libmilter is not to be started after it.
probe("stop before main", milter.stop)


def main():
    """Print the result of every probe."""
    for name, function in PROBES:
        try:
            result = repr(function())
        except BaseException as error:
            result = {"raises": [type(error).__name__, str(error)]}
        print(json.dumps({"name": name, "result": result}))


if __name__ == "__main__":
    sys.exit(main())
