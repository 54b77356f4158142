"""The state file on the disk: whole, private, backed up, and never silently empty."""

import errno
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from planrunner.errors import StateUnfit
from planrunner.state.control import Control
from planrunner.state.file import BACKUPS, FileStore
from planrunner.state.record import State

STATE = State(lineage="l", plan="orders", plan_digest="d")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "orders.yaml.state.json")


def save_serials(store: FileStore, last: int) -> None:
    for serial in range(1, last + 1):
        store.save(replace(STATE, serial=serial))


@pytest.fixture
def _open_umask() -> Iterator[None]:
    former = os.umask(0)
    yield
    os.umask(former)


@pytest.mark.usefixtures("_open_umask")
def test_the_file_is_readable_by_its_owner_only(store: FileStore) -> None:
    save_serials(store, 2)
    for path in (store.path, store.backup(1)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_previous_serials_are_kept_newest_first(store: FileStore) -> None:
    save_serials(store, 9)
    kept = [FileStore(store.backup(n)).load() for n in range(1, BACKUPS + 1)]
    assert [state.serial for state in kept if state] == [8, 7, 6, 5, 4]
    assert not store.backup(BACKUPS + 1).exists()
    # What somebody else named so is none of them.
    store.backup(BACKUPS + 1).write_bytes(store.path.read_bytes())
    assert [state.serial for state in store.history()] == [8, 7, 6, 5, 4]


def test_no_temporary_file_stays(store: FileStore) -> None:
    save_serials(store, 3)
    assert sorted(p.name for p in store.path.parent.iterdir()) == [
        store.path.name,
        store.backup(1).name,
        store.backup(2).name,
    ]


def test_damage_at_any_byte_is_noticed_or_harmless(store: FileStore) -> None:
    save_serials(store, 2)
    whole = store.path.read_bytes()
    for offset in range(len(whole)):
        store.path.write_bytes(whole[:offset] + b"\xff" + whole[offset + 1 :])
        with pytest.raises(StateUnfit):
            store.load()


def test_a_cut_file_names_the_newest_good_backup(store: FileStore) -> None:
    save_serials(store, 4)
    store.path.write_text("{")
    store.backup(1).write_text("also damaged")
    with pytest.raises(StateUnfit) as refused:
        store.load()
    assert str(store.path) in refused.value.message
    assert f"cp {store.backup(2)} {store.path}" in (refused.value.remedy or "")


def test_an_empty_file_is_not_a_fresh_start(store: FileStore) -> None:
    store.path.touch()
    with pytest.raises(StateUnfit, match="damaged"):
        store.load()


def test_a_vanished_file_with_backups_is_not_a_fresh_start(store: FileStore) -> None:
    save_serials(store, 3)
    store.path.unlink()
    with pytest.raises(StateUnfit, match="gone"):
        store.load()


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateUnfit, match=r"cannot read state file .*File name too long"):
        FileStore(tmp_path / ("9" * 300)).load()


def test_a_symbolic_link_is_refused_and_its_goal_untouched(store: FileStore, tmp_path: Path) -> None:
    goal = tmp_path / "precious"
    goal.write_text("keep me")
    store.path.symlink_to(goal)
    with pytest.raises(StateUnfit, match=r"json is a symbolic link"):
        store.load()
    with pytest.raises(StateUnfit, match=r"json is a symbolic link"):
        store.save(STATE)
    assert goal.read_text() == "keep me"


def test_a_missing_folder_is_told_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(StateUnfit, match="cannot write") as refused:
        FileStore(tmp_path / "nowhere" / "state.json").save(STATE)
    assert "--state" in (refused.value.remedy or "")


def test_it_is_called_by_its_path(store: FileStore) -> None:
    assert store.place == str(store.path)


def test_what_a_killed_writer_left_is_removed_and_nobody_elses(store: FileStore) -> None:
    folder = store.path.parent
    left = folder / f".{store.path.name}.999.tmp"
    other = folder / ".customers.yaml.state.json.999.tmp"
    left.touch()
    other.touch()
    save_serials(store, 1)
    assert not left.exists()
    assert other.exists()
    # Of a process that had our number.
    before = folder / f".{store.path.name}.control.json.{os.getpid()}.tmp"
    before.touch()
    store.steer(Control(who="bo"))
    assert store.control() == Control(who="bo")


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_put_in_the_way_of_a_save_is_neither_followed_nor_filled(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    goal = tmp_path / "precious"
    goal.write_text("keep me")
    unlink = Path.unlink

    def planted(path: Path, **how: bool) -> None:
        unlink(path, **how)
        if what == "link":
            path.symlink_to(goal)
        else:
            path.hardlink_to(goal)

    monkeypatch.setattr(Path, "unlink", planted)
    with pytest.raises(StateUnfit, match="cannot write state file"):
        store.save(STATE)
    assert goal.read_text() == "keep me"
    assert not store.path.exists()


def test_a_save_keeps_no_descriptor(store: FileStore) -> None:
    def next_free() -> int:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        os.close(descriptor)
        return descriptor

    before = next_free()
    save_serials(store, 3)
    assert next_free() == before


def test_where_files_cannot_be_linked_the_previous_one_is_copied(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlinkable(_self: Path, _goal: Path) -> None:
        raise OSError(errno.EPERM, "not on this file system")

    monkeypatch.setattr(Path, "hardlink_to", unlinkable)
    save_serials(store, 3)
    assert [state.serial for state in store.history()] == [2, 1]
    assert stat.S_IMODE(store.backup(1).stat().st_mode) == 0o600


def test_a_process_that_may_open_no_more_files_is_not_told_to_mend_the_state(store: FileStore) -> None:
    save_serials(store, 1)
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, former[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as told:
            store.load()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, former)
    assert told.value.errno == errno.EMFILE
    assert store.load() == replace(STATE, serial=1)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was forced to the disk, in order: the text of a file, or a folder with the names in it."""
    seen: list[str] = []
    force = os.fsync

    def fsync(descriptor: int) -> None:
        force(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen.append(f"folder with {', '.join(sorted(os.listdir(descriptor)))}")
        else:
            seen.append("file" if os.fstat(descriptor).st_size else "empty file")

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_what_is_saved_is_on_the_disk_before_it_is_named_and_so_is_its_name(
    store: FileStore, synced: list[str]
) -> None:
    save_serials(store, 1)
    assert synced == ["file", "folder with orders.yaml.state.json"]
    assert store.control() == Control()
    store.steer(Control(who="ana"))
    assert store.control() == Control(who="ana")
    assert synced[2:] == ["file", "folder with orders.yaml.state.json, orders.yaml.state.json.control.json"]
    store.set_aside()
    assert synced[4:] == [
        "folder with orders.yaml.state.json.aside.1, orders.yaml.state.json.control.json",
    ]


def test_an_older_copy_of_it_is_refused(store: FileStore) -> None:
    save_serials(store, 3)
    store.path.write_bytes(store.backup(2).read_bytes())
    with pytest.raises(StateUnfit, match=r"state file .*orders\.yaml\.state\.json"):
        FileStore(store.path).load()


def test_the_state_is_not_overwritten_by_another_migrations_nor_by_one_of_the_same_serial(
    store: FileStore,
) -> None:
    save_serials(store, 1)
    before = store.path.read_bytes()
    for other in (replace(STATE, lineage="another", serial=2), replace(STATE, serial=1, plan_digest="e")):
        with pytest.raises(StateUnfit, match=r"state file .*orders\.yaml\.state\.json"):
            store.save(other)
    assert store.path.read_bytes() == before
