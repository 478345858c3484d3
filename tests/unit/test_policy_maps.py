"""How access maps are recognised and read: Milter/_policymaps.py beyond what pymilter promises."""

from __future__ import annotations

import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.accessmaps import BUILT, as_text, build, conf, makemap, postmap, program, run
from Milter import _policymaps
from Milter._policymaps import PolicyMapError, open_map
from Milter.policy import DB, MTAPolicy, dbmopen


def value(path: Path, key: bytes, fold: bool = True) -> bytes | None:
    """Open the map, look up a key, close it."""
    opened = open_map(path, fold)
    try:
        return opened[key]
    except KeyError:
        return None
    finally:
        opened.close()


# -- text ------------------------------------------------------------------------------------------

LINES = b"""\
# a comment
#another\tone

Tabs\t\tV1
blanks   V2
several v a l u e s
trailing   V3  \t
"quoted key" V4
hash V#5
percent 100%%

UPPER\xc3\x84 V6
last V7"""

ENTRIES = {
    b"tabs": b"V1",
    b"blanks": b"V2",
    b"several": b"v a l u e s",
    b"trailing": b"V3  \t",
    b'"quoted': b'key" V4',
    b"hash": b"V#5",
    b"percent": b"100%%",
    b"upper\xc3\x84": b"V6",
    b"last": b"V7",
}


def read_text(path: Path, fold: bool = True) -> dict[bytes, bytes]:
    """Return what the file holds as text."""
    with open(path, "rb") as file:
        return dict(_policymaps._read_text(str(path), file, fold))


def test_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Comments, blank lines, tabs and blanks; keys are lower-cased as far as they are ASCII."""
    (tmp_path / "map").write_bytes(LINES)
    assert ENTRIES == read_text(tmp_path / "map")
    assert [] == caplog.records


def dumped(directory: Path, text: bytes, *options: str) -> dict[bytes, bytes]:
    """Return what makemap makes of a text, as it shows it itself; its complaints do not matter."""
    made = makemap(directory, "hash", *options, input=text)
    assert made.returncode in (0, 65), made.stderr  # EX_DATAERR
    shown = makemap(directory, "hash", "-u")
    assert (0, b"") == (shown.returncode, shown.stderr)
    return dict(line.split(b"\t", 1) for line in shown.stdout.splitlines())  # type: ignore[misc]


def test_text_as_makemap(tmp_path: Path) -> None:
    """Sendmail's makemap reads the same entries."""
    assert ENTRIES == dumped(tmp_path, LINES)


def test_text_unfolded_as_makemap(tmp_path: Path) -> None:
    """Told so, we keep the case of keys; makemap does with `-f`."""
    text = b"Key V\nkey w\n"
    (tmp_path / "text").write_bytes(text)
    assert {b"Key": b"V", b"key": b"w"} == read_text(tmp_path / "text", fold=False)
    assert {b"Key": b"V", b"key": b"w"} == dumped(tmp_path, text, "-f")


def test_text_at_random_as_makemap(tmp_path: Path) -> None:
    """What makemap makes of lines put together at random is what we read."""
    chance = random.Random(4)
    pieces = [b"a", b"B", b"c:", b"@", b" ", b"\t", b"  ", b"#", b"%", b"\\", b'"', b"\xe4", b"\n"]
    text = b"".join(chance.choice(pieces) for _ in range(6000))
    (tmp_path / "text").write_bytes(text)
    found = read_text(tmp_path / "text")
    assert dumped(tmp_path, text) == found
    assert len(found) > 100


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"k V\n more\n", "line 2: begins with a blank"),
        (b"k V\nlonely\n", "line 2: no value for 'lonely'"),
        (b"k V\nlonely\t\n", "line 2: no value for 'lonely'"),
        (b"k V\nK W\n", "line 2: 'k' a second time"),
        (b"a\0b V\nk V\n", "line 1: holds a NUL"),
    ],
)
def test_text_complaints(
    text: bytes, complaint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line that makemap would refuse is left out, and a warning names file and line."""
    path = tmp_path / "map"
    path.write_bytes(text)
    with caplog.at_level(logging.WARNING, "Milter"):
        assert {b"k": b"V"} == read_text(path)
    assert [f"{path}, {complaint}; left out"] == [r.getMessage() for r in caplog.records]


def test_text_line_ends(tmp_path: Path) -> None:
    """A carriage return before the line's end is no part of the value."""
    (tmp_path / "map").write_bytes(b"k V\r\n\r\n# c\r\nl W")
    assert {b"k": b"V", b"l": b"W"} == read_text(tmp_path / "map")


def test_empty_text(tmp_path: Path) -> None:
    """An empty file is a text without entries."""
    (tmp_path / "map").touch()
    assert None is value(tmp_path / "map", b"k")


def test_text_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that has not changed is not read again, whatever name leads to it from here."""
    monkeypatch.setattr(_policymaps, "_SETTLED", -60.0)
    path = tmp_path / "map"
    path.write_bytes(b"k V\n")
    first = open_map(path)
    monkeypatch.setattr(_policymaps, "_read_text", None)  # whoever calls it fails
    monkeypatch.chdir(tmp_path)
    assert b"V" == open_map("map")[b"k"] == first[b"k"]


@pytest.mark.parametrize("settled", [-60.0, 2.0])
def test_text_changes(settled: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is seen at the next opening, also one that leaves size and time; not before."""
    monkeypatch.setattr(_policymaps, "_SETTLED", settled)
    path = tmp_path / "map"
    path.write_bytes(b"k V\n")
    before = open_map(path)
    if settled < 0:
        (tmp_path / "new").write_bytes(b"k W\n")
        os.replace(tmp_path / "new", path)
    else:
        # In place and at once, so that neither size nor, on many systems, times tell.
        path.write_bytes(b"k W\n")
    assert b"W" == value(path, b"k")
    assert b"V" == before[b"k"]


def test_remembers_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many files only the contents of the last ones are kept."""
    monkeypatch.setattr(_policymaps, "_SETTLED", -60.0)
    monkeypatch.setattr(_policymaps, "_REMEMBERED", 3)
    monkeypatch.setattr(_policymaps, "_contents", {})
    for number in range(6):
        path = tmp_path / str(number)
        path.write_bytes(b"k %d\n" % number)
        assert b"%d" % number == value(path, b"k")
    assert ["3", "4", "5"] == [os.path.basename(name) for name, _ in _policymaps._contents]


def test_folding_is_remembered_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file read in both ways gives both results."""
    monkeypatch.setattr(_policymaps, "_SETTLED", -60.0)
    (tmp_path / "map").write_bytes(b"K V\n")
    assert [b"V", None] == [value(tmp_path / "map", b"k", fold) for fold in (True, False)]
    assert [None, b"V"] == [value(tmp_path / "map", b"K", fold) for fold in (True, False)]


def test_folding_in_the_configuration(tmp_path: Path) -> None:
    """A policy keeps the case of keys if the configuration says so, and else does not."""
    (tmp_path / "map").write_bytes(b"P:User@d V\n")
    told = conf(tmp_path / "map", access_file_fold=False)
    with MTAPolicy("User@d", told) as policy:
        assert ["V", None] == [policy.getPolicy(prefix) for prefix in "Pp"]
    with MTAPolicy("user@d", conf(tmp_path / "map")) as policy:
        assert [None, "V"] == [policy.getPolicy(prefix) for prefix in "Pp"]


# -- names and formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", sorted(BUILT))
@pytest.mark.parametrize("name", ["access", "access.map"])
def test_recognised_by_content(way: str, name: str, tmp_path: Path) -> None:
    """A map is recognised under a name that says nothing."""
    config = build(way, tmp_path, {"p": "V"})
    os.rename(config.access_file, tmp_path / name)
    key = b"p\0" if config.access_file_nulls else b"p"
    found = value(tmp_path / name, key)
    assert found is not None
    assert b"V" == found.rstrip(b"\0")


@pytest.mark.parametrize("way", sorted(set(BUILT) - {"text"}))
def test_suffix_is_found(way: str, tmp_path: Path) -> None:
    """Where there is no file of the name, the one that the makers call so is taken."""
    config = build(way, tmp_path, {"p": "V"})
    key = b"p\0" if config.access_file_nulls else b"p"
    assert value(tmp_path / "map", key) is not None


def test_name_before_suffix(tmp_path: Path) -> None:
    """Where there is a file of the name itself, no other is taken."""
    build("tinycdb", tmp_path, {"p": "DATABASE"})
    (tmp_path / "map").write_bytes(b"p TEXT\n")
    assert b"TEXT" == value(tmp_path / "map", b"p")


@pytest.mark.parametrize("suffix", [".db", ".lmdb", ".cdb"])
@pytest.mark.parametrize("content", [b"", b"k V\n", b"\0" * 4096])
def test_suffix_promises(suffix: str, content: bytes, tmp_path: Path) -> None:
    """Under a database's name anything else is an error, so that a half-made map is none."""
    path = tmp_path / f"map{suffix}"
    path.write_bytes(content)
    with pytest.raises(PolicyMapError, match="not a database of the kind that its name says"):
        open_map(path)


@pytest.mark.parametrize("content", [b"\0", b"k V\0\n", b"SQLite format 3\0" + b"x" * 100])
def test_binary_is_no_text(content: bytes, tmp_path: Path) -> None:
    """A file with NUL in it is no text."""
    (tmp_path / "map").write_bytes(content)
    with pytest.raises(PolicyMapError, match=f"{tmp_path}/map: neither text nor a database"):
        open_map(tmp_path / "map")


def test_other_berkeley_db(tmp_path: Path) -> None:
    """A queue of Berkeley DB is refused by name: it has no keys."""
    db = pytest.importorskip("berkeleydb", reason="no package berkeleydb").db
    file = db.DB()
    file.set_re_len(8)
    file.open(str(tmp_path / "q"), None, db.DB_QUEUE, db.DB_CREATE)
    file.close()
    with pytest.raises(PolicyMapError, match="neither hash nor btree"):
        open_map(tmp_path / "q")


def test_directory(tmp_path: Path) -> None:
    """A directory cannot be opened."""
    with pytest.raises(IsADirectoryError):
        open_map(tmp_path)


def test_missing(tmp_path: Path) -> None:
    """The error for a missing file names it as it was given, without a suffix."""
    with pytest.raises(FileNotFoundError) as caught:
        open_map(tmp_path / "none")
    assert str(tmp_path / "none") == caught.value.filename


@pytest.mark.parametrize(
    ("way", "module", "extra"),
    [
        ("postmap-hash", "berkeleydb.db", "berkeleydb"),
        ("makemap-btree", "berkeleydb.db", "berkeleydb"),
        ("postmap-lmdb", "lmdb", "lmdb"),
    ],
)
def test_missing_extra(
    way: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the driver that a file needs, the error names the file and what to install."""
    config = build(way, tmp_path, {"p": "V"})
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        open_map(config.access_file)
    text = str(caught.value)
    assert text.startswith(config.access_file)
    assert text.endswith(f': pip install "pymilter-cffi[{extra}]"')


# -- DB --------------------------------------------------------------------------------------------


def test_db_opened_again(tmp_path: Path) -> None:
    """An object that is opened again has the new map."""
    (tmp_path / "a").write_bytes(b"k A\n")
    (tmp_path / "b").write_bytes(b"k B\n")
    db = DB()
    with pytest.raises(ValueError, match="no map is open"):
        db[b"k"]
    for name in "ab":
        db.open(tmp_path / name)
        assert name.upper().encode() == db[b"k"]
    db.close()


# -- CDB -------------------------------------------------------------------------------------------


def djb(key: bytes) -> int:
    """The hash of cdb(5)."""
    result = 5381
    for byte in key:
        result = ((result << 5) + result & 0xFFFFFFFF) ^ byte
    return result


def test_cdb_many(tmp_path: Path) -> None:
    """Of thousands of entries each is found, and none that is not there."""
    entries = {f"key{n}": f"value {n}" for n in range(5000)}
    build("tinycdb", tmp_path, entries)
    opened = open_map(tmp_path / "map")
    try:
        assert entries == {key: opened[key.encode()].decode() for key in entries}
        for n in range(5000, 6000):
            with pytest.raises(KeyError):
                opened[b"key%d" % n]
    finally:
        opened.close()


def test_cdb_empty(tmp_path: Path) -> None:
    """A database without entries is one."""
    done = run(program("cdb", "tinycdb"), "-c", "-m", "map.cdb", directory=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert None is value(tmp_path / "map", b"k")


def test_cdb_damaged(tmp_path: Path) -> None:
    """Whatever is overwritten behind the header: an error or an answer, and never another end."""
    build("tinycdb", tmp_path, {f"k{n}": "V" * n for n in range(1, 20)})
    good = (tmp_path / "map.cdb").read_bytes()
    chance = random.Random(3)
    outcomes = set()
    for _ in range(300):
        bad = bytearray(good)
        struct.pack_into("<I", bad, chance.randrange(2048, len(bad) - 4), chance.randrange(2**32))
        (tmp_path / "bad.cdb").write_bytes(bad)
        for n in range(1, 20):
            try:
                outcomes.add(type(value(tmp_path / "bad", b"k%d" % n)).__name__)
            except PolicyMapError as error:
                outcomes.add(str(error))
    assert {"bytes", "NoneType", f"{tmp_path}/bad.cdb: damaged"} == outcomes


def test_cdb_whose_slots_are_all_taken(tmp_path: Path) -> None:
    """A look-up in a table without an empty slot ends: hand-made, as no maker makes it."""
    key, other = b"k", next(
        b"x%d" % n for n in range(10**6) if djb(b"x%d" % n) & 255 == djb(b"k") & 255
    )  # fmt: skip
    record = struct.pack("<II", 1, 1) + b"kV"
    table = struct.pack("<II", djb(key), 2048)
    end = 2048 + len(record)
    header = b""
    for number in range(256):
        header += struct.pack("<II", end, number == djb(key) & 255)
        end += 8 * (number == djb(key) & 255)
    (tmp_path / "map").write_bytes(header + record + table)
    assert [b"V", None] == [value(tmp_path / "map", each) for each in (key, other)]


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_cdb_cut_short(cut: int, tmp_path: Path) -> None:
    """A file that lost its end is not taken for a database."""
    build("tinycdb", tmp_path, {f"k{n}": "V" for n in range(100)})
    path = tmp_path / "map.cdb"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(PolicyMapError):
        open_map(path)


# -- LMDB ------------------------------------------------------------------------------------------


def test_lmdb_without_nulls(tmp_path: Path) -> None:
    """A file whose keys and values do not end in NUL, as other programs write it, is read, too."""
    lmdb = pytest.importorskip("lmdb", reason="no package lmdb")
    environment = lmdb.open(str(tmp_path / "map"), subdir=False, lock=False)
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"p", b"V")
    assert [b"V", b"V", None] == [value(tmp_path / "map", key) for key in (b"p", b"p\0", b"q")]


def test_lmdb_changes_in_place(tmp_path: Path) -> None:
    """postmap writes into the same file; the next opening sees it."""
    pytest.importorskip("lmdb", reason="no package lmdb")
    for expected in (b"ONE\0", b"TWO\0"):
        postmap(tmp_path, "lmdb", b"p " + expected[:-1] + b"\n")
        assert expected == value(tmp_path / "map", b"p")


def test_lmdb_leaves_nothing(tmp_path: Path) -> None:
    """A file in a directory where nothing can be written is read, and no lock file made."""
    config = build("postmap-lmdb", tmp_path, {"p": "V"})
    (tmp_path / "main.cf").unlink(missing_ok=True)
    os.chmod(config.access_file, 0o444)
    os.chmod(tmp_path, 0o555)
    try:
        assert b"V\0" == value(tmp_path / "map", b"p")
        assert ["map.lmdb"] == [path.name for path in tmp_path.iterdir()]
    finally:
        os.chmod(tmp_path, 0o755)


def test_lmdb_from_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that open one file at once get what is in it, though LMDB forbids two handles."""
    build("postmap-lmdb", tmp_path, {"p": "V"})
    monkeypatch.setattr(_policymaps, "_contents", {})
    start = threading.Barrier(8)
    found: list[object] = []

    def read() -> None:
        start.wait(20)
        for _ in range(25):
            try:
                found.append(value(tmp_path / "map", b"p"))
            except Exception as error:
                found.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [b"V\0"] * 200 == found


def test_lmdb_waits_for_postmap(tmp_path: Path) -> None:
    """While somebody holds Postfix's lock on the file, opening it waits."""
    if not os.path.exists("/proc/locks"):
        pytest.skip("not here: /proc/locks, which tells who waits")
    config = build("postmap-lmdb", tmp_path, {"p": "V"})
    writer = subprocess.Popen(
        [
            sys.executable, "-c",
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'r+b')\n"
            "fcntl.lockf(file, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n",
            config.access_file,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    found: list[bytes | None] = []
    with writer:
        assert writer.stdout is not None
        assert b"locked\n" == writer.stdout.readline()
        reader = threading.Thread(target=lambda: found.append(value(tmp_path / "map", b"p")))
        reader.start()
        inode = f":{os.stat(config.access_file).st_ino} "
        deadline = time.monotonic() + 20
        while not any(
            "->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()
        ):
            assert time.monotonic() < deadline
            assert reader.is_alive()
            time.sleep(0.01)
        assert [] == found
        assert writer.stdin is not None
        writer.stdin.close()
        reader.join(20)
    assert [b"V\0"] == found


def test_lmdb_damaged(tmp_path: Path) -> None:
    """A file whose pages are not LMDB's beyond the magic number is said to be damaged."""
    config = build("postmap-lmdb", tmp_path, {"p": "V"})
    content = bytearray(Path(config.access_file).read_bytes())
    for page in (0, os.sysconf("SC_PAGESIZE")):
        content[page + 20 : page + 24] = b"\xff" * 4  # the version
    Path(config.access_file).write_bytes(content)
    with pytest.raises(PolicyMapError, match=r"map\.lmdb: "):
        open_map(config.access_file)


# -- processes -------------------------------------------------------------------------------------


def test_after_fork(tmp_path: Path) -> None:
    """A child that is forked while another thread reads a map can read it, too."""
    if not hasattr(os, "fork"):
        pytest.skip("not here: os.fork")
    (tmp_path / "map").write_bytes(as_text({"p": "V"}))
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import os, sys\n"
            "from Milter import _policymaps\n"
            "with _policymaps._lock:\n"
            "    child = os.fork()\n"
            "    if not child:\n"
            "        os._exit(_policymaps.open_map(sys.argv[1])[b'p'] != b'V')\n"
            "    _, status = os.waitpid(child, 0)\n"
            "sys.exit(status)\n",
            str(tmp_path / "map"),
        ],
        check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (0, b"") == (done.returncode, done.stderr)


def test_berkeley_db_half_made(tmp_path: Path) -> None:
    """A file of Berkeley DB that ends after its first page's head is an error when opened."""
    config = build("makemap-hash", tmp_path, {"p": "V"})
    shutil.copy(config.access_file, tmp_path / "whole")
    Path(config.access_file).write_bytes((tmp_path / "whole").read_bytes()[:100])
    berkeleydb = pytest.importorskip("berkeleydb", reason="no package berkeleydb")
    with pytest.raises(berkeleydb.db.DBError):
        dbmopen(config.access_file, "r")
