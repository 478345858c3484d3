"""`Milter.plock.PLock`: lock, write, rename (API spec 3.8)."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from Milter import plock
from Milter.plock import PLock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "file"


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_life(path: Path) -> None:
    """Lock, write, commit: the file has what was written, and the lock is gone."""
    lock = PLock(str(path))
    assert (str(path), None) == (lock.basename, lock.fp)
    file = lock.lock()
    assert file is lock.fp
    assert f"{path}.lock" == lock.lockname
    file.write("one\n")
    assert not path.exists()
    lock.commit()
    assert "one\n" == path.read_text(encoding="utf-8")
    assert lock.fp is None
    assert [path.name] == os.listdir(path.parent)


def test_held(path: Path) -> None:
    """A second lock fails, and does the first no harm."""
    first, second = PLock(str(path)), PLock(str(path))
    first.lock().write("first")
    with pytest.raises(FileExistsError):
        second.lock()
    second.unlock()
    first.commit()
    assert "first" == path.read_text(encoding="utf-8")


def test_unlock(path: Path) -> None:
    """What was written is dropped; unlocking twice is nothing."""
    path.write_text("old", encoding="utf-8")
    lock = PLock(str(path))
    lock.lock().write("new")
    lock.unlock()
    lock.unlock()
    assert "old" == path.read_text(encoding="utf-8")
    assert [path.name] == os.listdir(path.parent)


def test_lock_again(path: Path) -> None:
    """An object that holds the lock drops it when it takes it again."""
    lock = PLock(str(path))
    lock.lock().write("first")
    lock.lock().write("second")
    lock.commit()
    assert "second" == path.read_text(encoding="utf-8")


def test_lockname(path: Path) -> None:
    """Another name for the lock."""
    lock = PLock(str(path))
    other = path.parent / "other.lck"
    lock.lock(str(other)).write("x")
    assert other.exists()
    assert str(other) == lock.lockname
    lock.commit()
    assert "x" == path.read_text(encoding="utf-8")
    assert not other.exists()


def test_not_locked(path: Path) -> None:
    """Without the lock there is nothing to commit."""
    with pytest.raises(OSError, match=r"^File not locked$"):
        PLock(str(path)).commit()


@pytest.mark.parametrize(
    ("present", "asked", "expected"),
    [(None, 0o660, 0o660), (None, 0o666, 0o664), (0o644, 0o660, 0o664), (0o644, 0o600, 0o644)],
)
def test_mode(path: Path, present: int | None, asked: int, expected: int) -> None:
    """The mode asked for, or-ed with the present file's, never writable for others."""
    if present is not None:
        path.touch()
        path.chmod(present)
    lock = PLock(str(path))
    lock.lock(mode=asked)
    lock.commit()
    assert expected == mode(path)


def test_the_umask_stays(path: Path) -> None:
    """The mode is not a matter of the umask, which is left alone (it is the whole process's)."""
    before = os.umask(0o077)
    try:
        lock = PLock(str(path))
        lock.lock()
        assert 0o077 == os.umask(0o077)
        lock.commit()
    finally:
        os.umask(before)
    assert 0o660 == mode(path)


def test_group(path: Path) -> None:
    """The new file gets the present one's group."""
    if os.geteuid():
        pytest.skip("not here: only root may give a file to any group")
    path.touch()
    os.chown(path, -1, 12345)
    lock = PLock(str(path))
    lock.lock()
    lock.commit()
    assert 12345 == path.stat().st_gid


def test_group_that_cannot_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the group cannot be changed matters only with strict_perms, which leaves no lock."""
    path.touch()

    def refuse(*args: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(plock.os, "fchown", refuse)
    lock = PLock(str(path))
    with pytest.raises(PermissionError):
        lock.lock(strict_perms=True)
    assert lock.fp is None
    assert [path.name] == os.listdir(path.parent)
    lock.lock()
    lock.commit()


def test_mode_that_cannot_be(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose permissions cannot be set is not held, and not left behind."""

    def refuse(*args: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(plock.os, "fchmod", refuse)
    lock = PLock(str(path))
    with pytest.raises(PermissionError):
        lock.lock()
    assert lock.fp is None
    assert [] == os.listdir(path.parent)


def test_strict_without_a_file(path: Path) -> None:
    """Nothing there to take the group from: FileNotFoundError (pymilter: UnboundLocalError)."""
    with pytest.raises(FileNotFoundError):
        PLock(str(path)).lock(strict_perms=True)
    assert [] == os.listdir(path.parent)


def test_backup(path: Path) -> None:
    """The old file stays under the other name, in place of what was there."""
    backup = path.parent / "old"
    lock = PLock(str(path))
    for text in ("one", "two", "three"):
        lock.lock().write(text)
        lock.commit(str(backup))
    assert "three" == path.read_text(encoding="utf-8")
    assert "two" == backup.read_text(encoding="utf-8")


def test_commit_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is in its place all the time, and the lock still held, until it is dropped."""
    path.write_text("old", encoding="utf-8")
    lock = PLock(str(path))
    lock.lock().write("new")

    def fail(*_: object) -> None:
        assert "old" == path.read_text(encoding="utf-8")
        assert "new" == Path(lock.lockname).read_text(encoding="utf-8")
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(plock.os, "replace", fail)
        patch.setattr(plock.os, "rename", fail)
        with pytest.raises(OSError, match=r"^no$"):
            lock.commit(f"{path}.old")
    with pytest.raises(FileExistsError):
        PLock(str(path)).lock()
    lock.unlock()
    assert "old" == path.read_text(encoding="utf-8")
    assert sorted([path.name, f"{path.name}.old"]) == sorted(os.listdir(path.parent))


def test_backup_of_nothing(path: Path) -> None:
    """No file yet, no backup, and no lock left (pymilter: FileNotFoundError, and it is left)."""
    lock = PLock(str(path))
    lock.lock().write("x")
    lock.commit(f"{path}.old")
    assert [path.name] == os.listdir(path.parent)


def test_wlock_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again every two seconds until the holder is done."""
    first, second = PLock(str(path)), PLock(str(path))
    first.lock().write("first")
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            first.commit()

    monkeypatch.setattr(plock.time, "sleep", sleep)
    second.wlock().write("second")
    second.commit()
    assert [2, 2, 2] == naps
    assert "second" == path.read_text(encoding="utf-8")


def test_wlock_of_what_cannot_be(tmp_path: Path) -> None:
    """A directory that is not there is nothing to wait for (pymilter waits for ever)."""
    with pytest.raises(FileNotFoundError):
        PLock(str(tmp_path / "nowhere" / "file")).wlock()


def test_threads(path: Path) -> None:
    """Of many that try at once one has the lock."""
    gate = threading.Barrier(8)
    won = []

    def contend() -> None:
        lock = PLock(str(path))
        gate.wait()
        try:
            lock.lock()
        except FileExistsError:
            return
        won.append(lock)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(won)
    won[0].unlock()
