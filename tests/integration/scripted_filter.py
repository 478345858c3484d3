"""A filter that plays a script, written for the legacy API and nothing else.

It imports only ``Milter``, subclasses ``Milter.Base`` and calls ``Milter.runmilter``, so that the
same file runs on this project's engine and, for comparison, on pymilter with libmilter.

    python scripted_filter.py SOCKET SCRIPT [NAME=VALUE ...]

SOCKET is the spec for ``runmilter``. SCRIPT is a JSON file that is read again for each connection
of the MTA; tests replace it between two connections. The settings after it are keyword arguments
of ``runmilter`` (integers) that legacy code never passes; few tests give any.

The script, all keys optional:

``log``        where to append one JSON line per callback: connection, callback, arguments, macros
``callbacks``  the optional callbacks that the class overrides (default: all)
``decorate``   callback -> list of [decorator, argument...], the innermost first
``options``    class decorators by name: ``rejected_recipients``, ``header_leading_space``
``policy``     name of the exception policy
``macros``     names asked for with ``getsymval`` in every callback
``rules``      list of rules; the first that fits a callback is played:
    ``on``       the callback
    ``args``     {"0": text}: the argument of that number equals the text
    ``message``  number of the message on this connection, from 1
    ``nth``      number of this callback within its message, from 1
    ``do``       list of [method, argument...] called on the filter
    ``gate``     path; the callback waits until it exists, once ``do`` has been done
    ``sleep``    [seconds, times]: sleep, and call ``progress`` after each
    ``return``   name of the verdict, a number, or null for None (default CONTINUE)
    ``raise``    text of a RuntimeError to raise

A text argument may be ``{"repeat": [text, count]}``, ``{"utf8": text}`` (bytes) or
``{"latin1": text}`` (bytes). What ``do`` raises is logged as ``raised`` and goes no further.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import Milter

CALLBACKS = {
    "connect",
    "hello",
    "envfrom",
    "envrcpt",
    "data",
    "header",
    "eoh",
    "body",
    "unknown",
}
ALWAYS = {"eom", "abort", "close"}
GATE_SECONDS = 60
_log_lock = threading.Lock()


def plain(value):
    """Return *value* in a form that JSON can hold: bytes become {"latin1": text}."""
    if isinstance(value, (bytes, bytearray)):
        return {"latin1": bytes(value).decode("latin-1")}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return value


def meant(value):
    """Return what an argument written in the script stands for."""
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "repeat":
            return content[0] * content[1]
        return content.encode("utf-8" if kind == "utf8" else "latin-1")
    return value


class Scripted(Milter.Base):
    """The part common to all scripts; `build` adds the callbacks."""

    script = {}

    def __init__(self):
        self.id = Milter.uniqueID()
        self.message = 0
        self.counts = {}

    def note(self, event, args=(), **more):
        """Append one line to the script's log."""
        line = {"connection": self.id, "event": event, "args": [plain(one) for one in args]}
        line.update(more)
        with _log_lock, open(self.script["log"], "a", encoding="ascii") as log:
            log.write(json.dumps(line) + "\n")

    def negotiate(self, opts):
        """Log the offer, and what came of it."""
        offered = list(opts)
        result = Milter.Base.negotiate(self, opts)
        self.note("negotiate", offered, result=result, actions=self._actions)
        return result

    def rule(self, name, args):
        """Return the first rule that fits this call, or an empty one."""
        for rule in self.script.get("rules", ()):
            if rule["on"] != name:
                continue
            if rule.get("message", self.message) != self.message:
                continue
            if rule.get("nth", self.counts[name]) != self.counts[name]:
                continue
            if any(args[int(n)] != text for n, text in rule.get("args", {}).items()):
                continue
            return rule
        return {}

    def play(self, name, args):
        """Log one callback and do what the script says about it."""
        if name == "envfrom":
            self.message += 1
            self.counts = {}
        self.counts[name] = self.counts.get(name, 0) + 1
        macros = {}
        for macro in self.script.get("macros", ()):
            value = self.getsymval(macro)
            if value is not None:
                macros[macro] = value
        self.note(name, args, macros=macros)
        rule = self.rule(name, args)
        for method, *arguments in rule.get("do", ()):
            try:
                getattr(self, method)(*[meant(one) for one in arguments])
            except Exception as error:
                self.note("raised", [method, type(error).__name__, str(error)])
        if "gate" in rule:
            self.note("waiting", [name])
            deadline = time.monotonic() + GATE_SECONDS
            while not os.path.exists(rule["gate"]) and time.monotonic() < deadline:
                time.sleep(0.01)
        if "sleep" in rule:
            seconds, times = rule["sleep"]
            for _ in range(times):
                time.sleep(seconds)
                self.progress()
        if "raise" in rule:
            raise RuntimeError(rule["raise"])
        verdict = rule.get("return", "CONTINUE")
        return getattr(Milter, verdict) if isinstance(verdict, str) else verdict


def callback(name, decorators):
    """Return a method called *name* that plays the script, with *decorators* around it."""

    def method(self, *args):
        return self.play(name, args)

    method.__name__ = method.__qualname__ = name
    for decorator, *arguments in decorators:
        decorate = getattr(Milter, decorator)
        method = decorate(*arguments)(method) if arguments else decorate(method)
    return method


def build(script):
    """Return a filter class made to the script."""
    wanted = (set(script["callbacks"]) if "callbacks" in script else CALLBACKS) | ALWAYS
    decorators = script.get("decorate", {})
    members = {name: callback(name, decorators.get(name, ())) for name in wanted}
    members["script"] = script
    made = type("ScriptedHere", (Scripted,), members)
    for option in script.get("options", ()):
        made = getattr(Milter, option)(made)
    return made


def main(argv):
    """Run the filter until it is told to stop."""
    socket, path = argv[1:3]
    extras = {name: int(value) for name, _, value in (one.partition("=") for one in argv[3:])}

    def factory():
        with open(path, encoding="utf-8") as file:
            script = json.load(file)
        Milter.set_exception_policy(getattr(Milter, script.get("policy", "TEMPFAIL")))
        return build(script)()

    Milter.factory = factory
    Milter.runmilter("scripted", socket, 0, True, **extras)


if __name__ == "__main__":
    main(sys.argv)
