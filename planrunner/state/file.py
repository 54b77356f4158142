"""The state file: replaced as a whole or not at all, with its previous serials kept as backups."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.reading import regular
from planrunner.state import control as controls
from planrunner.state import lock as locks
from planrunner.state.codec import from_json, to_json
from planrunner.state.control import Control
from planrunner.state.succession import BACKUPS, overtaken, refuse_older, refuse_unrelated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from planrunner.ports import Clock
    from planrunner.state.lock import Holder
    from planrunner.state.record import State


_NONE = (None, None)


class FileStore:
    """Keeps the state in one JSON file that only its owner may read.

    A reader finds the previous state or the new one, never a half of either. ``PATH.backup.1`` is the
    newest of the five previous ones. Beside it lie ``PATH.lock`` and, once someone steered the run,
    ``PATH.control.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: str | None = None
        self._last: State | None = None

    @property
    def place(self) -> str:
        """The path."""
        return str(self.path)

    def load(self) -> State | None:
        """The saved state; None when there is neither a file nor a backup.

        StateUnfit for a damaged or vanished file or an older copy of it (names the newest good backup), a newer
        format, a symbolic link, or a file that can't be read; nothing is changed.
        """
        self._refuse_link()
        # Before the file itself: one that is written meanwhile is only newer.
        _, newest = self._newest_good_backup()
        with self._translated("read"):
            text = _read(self.path)
        if text is None:
            self._refuse_vanished()
            return None
        try:
            loaded = from_json(text)
        except StateUnfit as error:
            raise StateUnfit(
                f"state file {self.path}: {error.message}", remedy=error.remedy or self._restore_remedy()
            ) from error
        refuse_older(loaded, newest, f"state file {self.path}", self._restore_remedy())
        self._known, self._last = text, loaded
        return self._last

    def save(self, state: State) -> None:
        """Write ``state`` to the disk and keep what was there as a backup; StateUnfit when it can't.

        LockedByAnother when the file is no longer what was read or written here.
        """
        self._refuse_link()
        text = to_json(state)
        refuse_unrelated(self._last, state, f"state file {self.path}")
        with self._translated("write"):
            if _read(self.path) != self._known:
                raise overtaken(f"state file {self.path}")
            self._remove_stale()
            temporary = _written(self.path, text)
            failpoint("state.before_backup")
            self._keep_previous()
            failpoint("state.before_replace")
            temporary.replace(self.path)
            failpoint("state.replaced")
            _sync_folder(self.path.parent)
        self._known, self._last = text, state

    def history(self) -> tuple[State, ...]:
        """The backups that can be read, newest first."""
        return tuple(state for _, state in self._good_backups())

    def set_aside(self) -> str | None:
        """Rename the file to the first free ``PATH.aside.N``."""
        self._known = self._last = None
        with self._translated("write"):
            if not os.path.lexists(self.path):
                return None
            numbers = itertools.count(1)
            aside = next(free for n in numbers if not os.path.lexists(free := self._beside(f"aside.{n}")))
            self.path.rename(aside)
            failpoint("state.set_aside")
            _sync_folder(self.path.parent)
        return str(aside)

    def locked(self, clock: Clock) -> AbstractContextManager[None]:
        """Hold ``PATH.lock``; it is freed with the process, however that ends."""
        return locks.locked(self._beside("lock"), clock)

    def holder(self) -> Holder | None:
        """Who holds it on this machine; None when nobody does."""
        return locks.holder(self._beside("lock"))

    def control(self) -> Control:
        """What ``PATH.control.json`` asks for."""
        path = self._beside("control.json")
        with self._translated("read"):
            text = _read(path)
        return Control() if text is None else controls.from_json(text, str(path))

    def steer(self, control: Control) -> None:
        """Replace ``PATH.control.json`` as a whole."""
        path = self._beside("control.json")
        with self._translated("write"):
            _written(path, controls.to_json(control)).replace(path)
            failpoint("control.replaced")
            _sync_folder(path.parent)

    def events(self) -> bytes | None:
        """None: the journal lies beside the state and is read there."""
        return None

    def push_events(self, first: int, lines: bytes) -> None:
        """Nothing: the journal lies beside the state."""

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")

    def backup(self, number: int) -> Path:
        """Where the ``number``-th newest previous state is kept."""
        return self.path.with_name(f"{self.path.name}.backup.{number}")

    def _remove_stale(self) -> None:
        # Of writers that were killed; whoever is here holds the lock.
        for temporary in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
            temporary.unlink(missing_ok=True)

    def _keep_previous(self) -> None:
        if not self.path.exists():
            return
        for number in range(BACKUPS - 1, 0, -1):
            if self.backup(number).exists():
                self.backup(number).replace(self.backup(number + 1))
        try:
            self.backup(1).hardlink_to(self.path)
        except OSError:
            # Some file systems know no hard links.
            shutil.copy2(self.path, self.backup(1))

    def _refuse_link(self) -> None:
        with self._translated("read"):
            linked = self.path.is_symlink()
        if linked:
            raise StateUnfit(
                f"state file {self.path} is a symbolic link",
                remedy="Name the file itself with --state; a link would be replaced, not followed.",
            )

    def _refuse_vanished(self) -> None:
        if self._newest_good_backup() != _NONE:
            raise StateUnfit(
                f"state file {self.path} is gone, its backups are there", remedy=self._restore_remedy()
            )

    def _restore_remedy(self) -> str:
        good, _ = self._newest_good_backup()
        if good is None:
            return (
                "No backup of it can be read either. Move the file away to start from what the servers show;"
                " steps that are done there will find nothing missing."
            )
        return f"Restore the newest good backup: cp {good} {self.path}; or move the backups away too."

    def _newest_good_backup(self) -> tuple[Path, State] | tuple[None, None]:
        return next(self._good_backups(), _NONE)

    def _good_backups(self) -> Iterator[tuple[Path, State]]:
        for path in map(self.backup, range(1, BACKUPS + 1)):
            state = _readable(path)
            if state is not None:
                yield path, state

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise  # nothing is wrong with the file: the boundary says what lacks
            raise StateUnfit(
                f"cannot {verb} state file {self.path}: {error.strerror}",
                remedy="Make its folder and file accessible, or name another file with --state.",
            ) from error
        except UnicodeDecodeError as error:
            raise StateUnfit(
                f"state file {self.path}: it is damaged: not UTF-8", remedy=self._restore_remedy()
            ) from error


def _read(path: Path) -> str | None:
    try:
        descriptor = regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        return file.read()


def _written(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _readable(path: Path) -> State | None:
    try:
        text = _read(path)
        return None if text is None else from_json(text)
    except (OSError, UnicodeDecodeError, StateUnfit):
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
