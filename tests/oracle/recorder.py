"""A filter that writes down what it is told, and does what a file says: the same on both sides.

    python recorder.py --kind base|low --socket SPEC --behaviour FILE --out FILE

It uses only what pymilter has, so it runs under pymilter on libmilter and under our package, and
what the two write down can be compared. FILE is read anew for every connection (in the first
callback of it), so one process serves any number of scenarios.

``--kind base`` is a subclass of ``Milter.Base`` under ``Milter.runmilter``; ``--kind low`` sets
callbacks on the module ``milter`` and calls the context's methods itself.

The behaviour is a JSON object; everything in it is optional:

methods            list: the callbacks that the class defines (kind base); default all
bases              list: names of classes in Milter to derive from instead of Base
decorate           {callback: [[decorator, argument...], ...]}, applied in order
class_decorators   list of names in Milter
returns            {callback: value or [value, ...]}, the last repeats; see _verdict
calls              {callback: [[method, argument...], ...]}, made before returning
macros             list of names looked up in every callback
policy             an exception policy
negotiate          {"set": {index: value}, "append": [...], "super": bool, "return": value}
thread_local       true: note in each callback what a threading.local holds, and set it

A value {"b": "hex"} stands for bytes, {"raise": "Name"} for raising that exception.
Every callback is one JSON line in --out: {"cb": name, "args": [...], "calls": [...], "macros": {}}.
"""

import argparse
import json
import os
import sys
import threading

import Milter
import milter

ALL = [
    "connect",
    "hello",
    "envfrom",
    "envrcpt",
    "data",
    "header",
    "eoh",
    "body",
    "eom",
    "abort",
    "close",
    "unknown",
]
LOCAL = threading.local()
LOCK = threading.Lock()
STARTED = os.getpid()


def plain(value):
    """Turn a callback's argument into JSON, telling str, bytes and tuple apart."""
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, tuple):
        return {"t": [plain(item) for item in value]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return {"type": type(value).__name__}


def real(value):
    """Turn a value of the behaviour file into what is to be passed to a method."""
    if isinstance(value, dict) and "b" in value:
        return bytes.fromhex(value["b"])
    if isinstance(value, dict) and "repeat" in value:
        return value["repeat"][0] * value["repeat"][1]
    return value


class Session:
    """One connection: its behaviour and what was called how often."""

    def __init__(self, options):
        with open(options.behaviour, encoding="utf-8") as file:
            self.behaviour = json.load(file)
        self.out = options.out
        self.counts = {}
        milter.set_exception_policy(self.behaviour.get("policy", milter.TEMPFAIL))

    def record(self, line):
        """Write one line, whole, even when connections run side by side."""
        with LOCK, open(self.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def called(self, name, target, *args):
        """Record the callback *name*, do what is to be done in it and return its verdict."""
        line = {"cb": name, "args": plain(list(args))}
        calls = []
        for method, *arguments in self.behaviour.get("calls", {}).get(name, []):
            try:
                result = getattr(target, method)(*[real(item) for item in arguments])
            except Exception as error:  # whatever it is, it is the result
                calls.append([method, type(error).__name__, str(error)])
            else:
                calls.append([method, plain(result)])
        if calls:
            line["calls"] = calls
        macros = {}
        for macro in self.behaviour.get("macros", []):
            try:
                macros[macro] = plain(target.getsymval(macro))
            except Exception as error:
                macros[macro] = {"error": type(error).__name__}
        if macros:
            line["macros"] = macros
        if self.behaviour.get("thread_local"):
            line["local"] = getattr(LOCAL, "value", None)
            LOCAL.value = f"set in {name}"
        self.record(line)
        return self.verdict(name)

    def verdict(self, name):
        """Return (or raise) what the behaviour says for this call of *name*."""
        value = self.behaviour.get("returns", {}).get(name, milter.CONTINUE)
        if isinstance(value, list):
            count = self.counts.get(name, 0)
            self.counts[name] = count + 1
            value = value[min(count, len(value) - 1)]
        if isinstance(value, dict) and "raise" in value:
            raise {
                "ValueError": ValueError,
                "KeyboardInterrupt": KeyboardInterrupt,
                "SystemExit": SystemExit,
                "UnicodeDecodeError": lambda *a: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
            }[value["raise"]]("on purpose")
        return value


# ---- kind base ----


def make_method(name):
    """Return a method *name* that records itself."""

    def method(self, *args):
        return self.session.called(name, self, *args)

    method.__name__ = name
    return method


def make_class(session):
    """Build the filter's class as the behaviour describes it."""
    behaviour = session.behaviour
    members = {}
    for name in behaviour.get("methods", ALL):
        method = make_method(name)
        for decorator, *arguments in behaviour.get("decorate", {}).get(name, []):
            if decorator in {"decode", "symlist"}:
                method = getattr(Milter, decorator)(*arguments)(method)
            else:
                method = getattr(Milter, decorator)(method)
        members[name] = method

    asked = behaviour.get("negotiate", {})

    def negotiate(self, opts):
        line = {"cb": "negotiate", "args": [plain(opts)]}
        result = Milter.CONTINUE
        if asked.get("super", True):
            result = Milter.Base.negotiate(self, opts)
        for index, value in asked.get("set", {}).items():
            opts[int(index)] = value
        opts.extend(asked.get("append", []))
        calls = []
        for method, *arguments in behaviour.get("calls", {}).get("negotiate", []):
            try:
                calls.append([method, plain(getattr(self, method)(*map(real, arguments)))])
            except Exception as error:
                calls.append([method, type(error).__name__, str(error)])
        line["calls"] = calls
        line["after"] = [plain(opts), self._actions, self._protocol, plain(result)]
        session.record(line)
        if "return" in asked:
            return session_value(asked["return"])
        return result

    def session_value(value):
        if isinstance(value, dict) and "raise" in value:
            raise ValueError("on purpose")
        return value

    members["negotiate"] = negotiate
    members["session"] = session
    bases = tuple(getattr(Milter, name) for name in behaviour.get("bases", ["Base"]))
    klass = type("Recorder", bases, members)
    for name in behaviour.get("class_decorators", []):
        klass = getattr(Milter, name)(klass)
    return klass


def run_base(options):
    """Run the subclass of Milter.Base until the process is told to stop."""
    Milter.factory = lambda: make_class(Session(options))()
    Milter.set_flags(Milter.ADDHDRS)
    Milter.runmilter("recorder", options.socket, options.timeout)


# ---- kind low ----


def run_low(options):
    """Run bare callbacks on the module milter until the process is told to stop."""

    def session_of(ctx):
        session = ctx.getpriv()
        if session is None:
            session = Session(options)
            ctx.setpriv(session)
        return session

    def callback(name):
        def function(ctx, *args):
            return session_of(ctx).called(name, ctx, *args)

        return function

    def negotiate(ctx, opts):
        session = session_of(ctx)
        asked = session.behaviour.get("negotiate", {})
        line = {"cb": "negotiate", "args": [plain(opts)]}
        for index, value in asked.get("set", {}).items():
            opts[int(index)] = value
        opts.extend(asked.get("append", []))
        calls = []
        for method, *arguments in session.behaviour.get("calls", {}).get("negotiate", []):
            try:
                calls.append([method, plain(getattr(ctx, method)(*map(real, arguments)))])
            except Exception as error:
                calls.append([method, type(error).__name__, str(error)])
        if calls:
            line["calls"] = calls
        session.record(line)
        value = asked.get("return", milter.ALL_OPTS)
        if isinstance(value, dict) and "raise" in value:
            raise ValueError("on purpose")
        return value

    def close(ctx):
        session = session_of(ctx)
        try:
            return session.called("close", ctx)
        finally:
            ctx.setpriv(None)

    setters = {
        "connect": milter.set_connect_callback,
        "hello": milter.set_helo_callback,
        "envfrom": milter.set_envfrom_callback,
        "envrcpt": milter.set_envrcpt_callback,
        "header": milter.set_header_callback,
        "eoh": milter.set_eoh_callback,
        "body": milter.set_body_callback,
        "eom": milter.set_eom_callback,
        "abort": milter.set_abort_callback,
    }
    for name, setter in setters.items():
        setter(callback(name))
    milter.set_close_callback(close)
    milter.set_flags(0)
    milter.setconn(options.socket)
    milter.settimeout(options.timeout)
    milter.register(
        "recorder", data=callback("data"), unknown=callback("unknown"), negotiate=negotiate
    )
    milter.opensocket(True)
    milter.main()


def main():
    """Read the arguments and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["base", "low"], required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--behaviour", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--timeout", type=int, default=60)
    options = parser.parse_args()
    {"base": run_base, "low": run_low}[options.kind](options)


if __name__ == "__main__":
    sys.exit(main())
