"""The table of pymilter's names on the porting page: it is up to date, and true."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable

import pytest

pytestmark = pytest.mark.one_mode("it serves nothing")

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    """The script that makes the table, as a module."""
    path = ROOT / "scripts" / "porting-table.py"
    spec = importlib.util.spec_from_file_location("porting_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load()
NAMES: list[Any] = table.names()


def ident(name: Any) -> str:
    """Its full name, with dots."""
    return ".".join(part for part in (name.module.name, name.owner, name.name.strip(".")) if part)


# -- the page --------------------------------------------------------------------------------------


def test_page_is_up_to_date() -> None:
    """docs/porting.md has the table that the script makes."""
    text = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
    assert table.page(text, NAMES) == text


def test_check_fails_for_an_old_page(tmp_path: Path) -> None:
    """With ``--check`` the script fails if a name was added, and passes once the page is made."""
    for directory in ("scripts", "docs"):
        (tmp_path / directory).mkdir()
    for name in ("scripts/porting-table.py", "scripts/pymilter-names.txt", "docs/porting.md"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    script = [sys.executable, str(tmp_path / "scripts" / "porting-table.py")]
    assert 0 == subprocess.run([*script, "--check"], check=False, timeout=60).returncode
    with open(tmp_path / "scripts" / "pymilter-names.txt", "a", encoding="utf-8") as file:
        file.write("another(a)\n")
    done = subprocess.run([*script, "--check"], check=False, timeout=60, capture_output=True)
    assert (1, b"docs/porting.md is out of date: run scripts/porting-table.py") == (
        done.returncode,
        done.stdout.strip(),
    )
    subprocess.run(script, check=True, timeout=60)
    assert 0 == subprocess.run([*script, "--check"], check=False, timeout=60).returncode
    assert "`another(a)`" in (tmp_path / "docs" / "porting.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    ["NAME", "module m, 1\n    method()", "module m, 1\nf(a  | ", "module m, 1\nf()  | better: x"],
)
def test_lines_that_are_not_understood(line: str) -> None:
    """A line without a module, a method without a class, half a signature, an unknown state."""
    with pytest.raises(SystemExit, match=r"line [12]"):
        table.names(line)


def test_each_name_once() -> None:
    """No name is listed twice."""
    listed = [ident(name) for name in NAMES]
    assert sorted(set(listed)) == sorted(listed)


# -- what is there ---------------------------------------------------------------------------------


def module_of(name: Any) -> ModuleType:
    """The module it is listed in."""
    return importlib.import_module(name.module.name)


def found(name: Any) -> Any:
    """The object in the package; a class's as the class has it."""
    owner = getattr(module_of(name), name.owner) if name.owner else module_of(name)
    return getattr(owner, name.name)


def stated(name: Any) -> inspect.Signature:
    """The signature that the list states; the default Ellipsis stands for any."""
    text = name.signature.replace("=...", "=Ellipsis")
    scope: dict[str, Any] = {}
    exec(f"def f{text}: pass", scope)
    return inspect.signature(scope["f"])


def actual(name: Any) -> inspect.Signature:
    """The signature that the package has, without self."""
    thing = found(name)
    signature = inspect.signature(thing)
    parameters = list(signature.parameters.values())
    if name.owner and parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    return signature.replace(parameters=parameters)


def takes(signature: inspect.Signature, wanted: inspect.Signature) -> str:
    """Say why a call that fits the second would not do the same with the first; "" if it would."""
    ours = list(signature.parameters.values())
    theirs = list(wanted.parameters.values())
    rest = [p for p in ours if p.kind is p.VAR_POSITIONAL]
    for mine, its in zip(ours, theirs):
        if its.kind is its.VAR_POSITIONAL:
            if not rest:
                return f"no *{its.name}"
            break
        if mine.kind is mine.VAR_POSITIONAL:
            break
        if its.kind is its.VAR_KEYWORD is mine.kind:
            pass
        elif its.kind is not mine.kind:
            return f"{its.name} is {mine.kind.description}"
        # The name counts only where it can be given.
        elif its.kind is not its.POSITIONAL_ONLY and its.name != mine.name:
            return f"{its.name} is called {mine.name}"
        elif its.default is not its.empty and mine.default is mine.empty:
            return f"{its.name} is required"
        elif its.default not in (its.empty, Ellipsis) and its.default != mine.default:
            return f"the default of {its.name} is {mine.default!r}"
    if len(theirs) > len(ours) and not rest:
        return f"no {theirs[len(ours)].name}"
    for more in ours[len(theirs) :]:
        if more.default is more.empty and more.kind not in (more.VAR_POSITIONAL, more.VAR_KEYWORD):
            return f"{more.name} is required"
    return ""


@pytest.mark.parametrize("name", [n for n in NAMES if not n.name.startswith(".")], ids=ident)
def test_name_is_there(name: Any) -> None:
    """The name exists, with the value, the base and a signature that takes what is stated."""
    thing = found(name)
    if name.value:
        expected = ast.literal_eval(name.value)
        assert (type(expected), expected) == (type(thing), thing)
    if name.is_class:
        assert isinstance(thing, type)
    if name.base:
        base = getattr(module_of(name), name.base, None) or getattr(builtins, name.base)
        assert issubclass(thing, base)
    if name.signature:
        assert callable(thing)
        assert "" == takes(actual(name), stated(name))


#: How an object of each class is made that has attributes of its own in the list.
MAKE: dict[str, Callable[[Any], Any]] = {
    "Milter.cache.AddrCache": lambda cls: cls(),
    "Milter.config.MilterConfigParser": lambda cls: cls(),
    "Milter.dns.Session": lambda cls: cls(),
    "Milter.greylist.Greylist": lambda cls: cls("grey.db"),
    "Milter.greysql.Greylist": lambda cls: cls("grey.db"),
    "Milter.plock.PLock": lambda cls: cls("file"),
    "Milter.policy.MTAPolicy": lambda cls: cls(
        "a@b", SimpleNamespace(access_file=None, access_file_nulls=False)
    ),
    "Milter.test.TestBase": lambda cls: cls(),
    "Milter.testctx.TestCtx": lambda cls: cls(),
    "mime.MimeMessage": lambda cls: cls(),
    "mime.HTMLScriptFilter": lambda cls: cls(io.StringIO()),
}


@pytest.mark.parametrize(
    "owner", sorted({ident(n)[: -len(n.name)] for n in NAMES if n.name[0] == "."})
)
def test_attributes_are_there(owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object has the attributes that are listed for its class."""
    (tmp_path / "test").mkdir()
    monkeypatch.chdir(tmp_path)
    module, _, cls = owner.rpartition(".")
    made = MAKE[owner](getattr(importlib.import_module(module), cls))
    try:
        listed = [
            n.name[1:] for n in NAMES if n.name[0] == "." and ident(n)[: -len(n.name)] == owner
        ]
        assert [] == [name for name in listed if not hasattr(made, name)]
    finally:
        if cls == "Greylist":
            made.close()
        elif cls == "TestBase":
            made._close()


def test_package_has_the_names_of_the_module() -> None:
    """`Milter` re-exports each public name of `milter`, as the same object."""
    inner, outer = importlib.import_module("milter"), importlib.import_module("Milter")
    listed = [n.name for n in NAMES if n.module.name == "milter" and not n.owner]
    assert [] == [n for n in listed if getattr(inner, n) is not getattr(outer, n, None)]


# -- what there is in pymilter ---------------------------------------------------------------------

#: What a module of pymilter shows without offering it: what it has imported, for the most part.
INCIDENTAL = {
    "Milter": {"priv"},  # left over from a loop
    "Milter.cache": {"PLock"},
    "Milter.config": {"ConfigParser"},
    "Milter.dsn": {"Message", "Vars"},
    "Milter.dynip": {"hpats", "ip3", "rehmac"},
    "Milter.greylist": {"log"},
    "Milter.greysql": {"datetime", "log"},
    "Milter.plock": {"sleep"},
    "Milter.sgmllib": {
        "attrfind", "charref", "endbracket", "entityref", "incomplete", "interesting", "piclose",
        "shorttag", "shorttagopen", "starttagopen", "tagfind",
    },
    "Milter.test": {"BytesIO"},
    "Milter.testctx": {"AF_INET", "AF_INET6", "BytesIO", "VERSION"},
    "Milter.utils": {"a2b_base64", "decode_header", "fnmatchcase"},
    "mime": {"BytesGenerator", "BytesIO", "StringIO", "declname", "declstringlit",
             "message_from_binary_file"},
}  # fmt: skip

PROBE = """
import importlib, json, sys, types
shown = {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except ImportError:
        continue
    shown[name] = sorted(
        key for key in dir(module)
        if key[0] != "_" and (
            name == "Milter" or key == "encoders" or
            key != "print_function" and not isinstance(getattr(module, key), types.ModuleType)
        )
    )
print(json.dumps(shown))
"""


@pytest.mark.oracle
def test_nothing_is_forgotten() -> None:
    """What pymilter's modules show, as far as they can be imported, is listed, or incidental."""
    python = ROOT / ".cache" / "oracle" / "bin" / "python"
    if not python.exists():
        pytest.skip("no pymilter on libmilter: run scripts/setup-oracle")
    modules = sorted({name.module.name for name in NAMES} - {"Milter._context"})
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", PROBE, *modules],
        cwd="/", capture_output=True, check=True, timeout=60,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
    )  # fmt: skip
    shown = {name: set(keys) for name, keys in json.loads(done.stdout).items()}
    # The others need py3dns, Berkeley DB or Python 2.
    assert set(modules) - {"Milter.dns", "Milter.dsn", "Milter.greylist", "Milter.policy"} == (
        set(shown) - {"Milter.dns", "Milter.dsn", "Milter.greylist", "Milter.policy"}
    )
    listed: dict[str, set[str]] = {}
    for name in NAMES:
        if not name.owner:
            listed.setdefault(name.module.name, set()).add(name.name)
    listed["Milter"] |= listed["milter"]
    forgotten = {
        module: sorted(keys - listed[module] - INCIDENTAL.get(module, set()))
        for module, keys in shown.items()
    }
    assert {} == {module: keys for module, keys in forgotten.items() if keys}
    # And nothing is listed that there is not.
    invented = {
        module: sorted(key for key in listed[module] - keys if key[0] != "_")
        for module, keys in shown.items()
    }
    assert {} == {module: keys for module, keys in invented.items() if keys}
