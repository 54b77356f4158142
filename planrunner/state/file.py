"""The state file: replaced as a whole or not at all, with its previous serials kept as backups."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import StateUnfit
from planrunner.state.codec import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.state.record import State

BACKUPS = 5


class FileStore:
    """Keeps the state in one JSON file that only its owner may read.

    A reader finds the previous state or the new one, never a half of either. ``PATH.backup.1`` is the
    newest of the five previous ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> State | None:
        """The saved state; None when there is neither a file nor a backup.

        StateUnfit for a damaged or vanished file (names the newest good backup), a newer format, a
        symbolic link, or a file that can't be read; nothing is changed.
        """
        self._refuse_link()
        with self._translated("read"):
            text = _read(self.path)
        if text is None:
            self._refuse_vanished()
            return None
        try:
            return from_json(text)
        except StateUnfit as error:
            raise StateUnfit(
                f"state file {self.path}: {error.message}", remedy=error.remedy or self._restore_remedy()
            ) from error

    def save(self, state: State) -> None:
        """Write ``state`` to the disk and keep what was there as a backup; StateUnfit when it can't."""
        self._refuse_link()
        with self._translated("write"):
            temporary = self._written(to_json(state))
            self._keep_previous()
            temporary.replace(self.path)
            _sync_folder(self.path.parent)

    def backup(self, number: int) -> Path:
        """Where the ``number``-th newest previous state is kept."""
        return self.path.with_name(f"{self.path.name}.backup.{number}")

    def _written(self, text: str) -> Path:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return temporary

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
        if self.path.is_symlink():
            raise StateUnfit(
                f"state file {self.path} is a symbolic link",
                remedy="Name the file itself with --state; a link would be replaced, not followed.",
            )

    def _refuse_vanished(self) -> None:
        if self._newest_good_backup() is not None:
            raise StateUnfit(
                f"state file {self.path} is gone, its backups are there", remedy=self._restore_remedy()
            )

    def _restore_remedy(self) -> str:
        good = self._newest_good_backup()
        if good is None:
            return (
                "No backup of it can be read either. Move the file away to start from what the servers show;"
                " steps that are done there will find nothing missing."
            )
        return f"Restore the newest good backup: cp {good} {self.path}; or move the backups away too."

    def _newest_good_backup(self) -> Path | None:
        return next((path for path in map(self.backup, range(1, BACKUPS + 1)) if _is_good(path)), None)

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
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
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        return file.read()


def _is_good(path: Path) -> bool:
    try:
        text = _read(path)
        return text is not None and bool(from_json(text))
    except (OSError, UnicodeDecodeError, StateUnfit):
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
