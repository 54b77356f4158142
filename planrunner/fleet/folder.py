"""The files of a fleet: one folder beside its file, with what it keeps itself and the files of every member."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.fleet.model import Fleet, Member, Wave
from planrunner.reading import regular

if TYPE_CHECKING:
    from pathlib import Path

    from planrunner.model import Json

_STATE = ".state.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Where a fleet keeps what it knows. Names of its own begin with _, which no member's does."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the process that works on the fleet."""
        return self.path / "_lock"

    @property
    def journal(self) -> Path:
        """What was begun, ended and approved, a line each."""
        return self.path / "_journal.jsonl"

    @property
    def roster(self) -> Path:
        """The fleet as it was when it was last run."""
        return self.path / "_roster.json"

    @property
    def listed(self) -> Path:
        """What AWS listed at the first run."""
        return self.path / "_inventory.json"

    def state(self, member: str) -> Path:
        """A member's state file."""
        return self.path / f"{member}{_STATE}"

    def log(self, member: str) -> Path:
        """What a member's runs wrote to their terminals."""
        return self.path / f"{member}.log"

    def report(self, member: str) -> Path:
        """The page that a member's run leaves."""
        return self.path / f"{member}.report.html"

    def members(self) -> tuple[str, ...]:
        """Whoever has a state here."""
        return tuple(sorted(path.name.removesuffix(_STATE) for path in self.path.glob(f"*{_STATE}")))

    def make(self) -> None:
        """Make the folder; StateUnfit when that can't be."""
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise _unfit(self.path, "make", error) from error

    def keep(self, fleet: Fleet) -> None:
        """Write the roster: who is in the fleet that is run now."""
        self.write(self.roster, {"format_version": _FORMAT, **_as_json(fleet)})

    def kept(self, path: Path) -> Fleet | None:
        """The fleet as it was last run; None when it never was."""
        tree = self.read(self.roster)
        return None if tree is None else _from_json(tree, path, self.roster)

    def read(self, path: Path) -> Any:
        """What a file of the folder holds; None where it is not there. StateUnfit for one that can't be read."""
        try:
            with os.fdopen(regular(path, os.O_RDONLY), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unfit(path, "read", error) from error
        except ValueError as error:
            raise StateUnfit(
                f"{path} is damaged: it is no JSON",
                remedy="Move it away; the members' states are files of their own and stay.",
            ) from error

    def write(self, path: Path, tree: Json) -> None:
        """Replace a file of the folder as a whole."""
        self.put(path, json.dumps(tree, indent=1, default=str))

    def put(self, path: Path, text: str) -> None:
        """The same with a text."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with os.fdopen(
                regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8"
            ) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            failpoint("fleet.before_replace")
            temporary.replace(path)
        except OSError as error:
            raise _unfit(path, "write", error) from error


def folder_of(fleet: Path) -> Folder:
    """``shops.yaml`` has its files in ``shops.fleet``."""
    return Folder(path=fleet.with_name(f"{fleet.stem}.fleet"))


def _unfit(path: Path, verb: str, error: OSError) -> StateUnfit:
    return StateUnfit(
        f"cannot {verb} {path}: {error.strerror}",
        remedy="Make the fleet's folder accessible, and what is in it.",
    )


def _as_json(fleet: Fleet) -> dict[str, Json]:
    tree: dict[str, Any] = asdict(fleet)
    # How the workers are reached is for the next run to say.
    del tree["path"], tree["pool"]
    folder = fleet.path.parent
    for entry, member in zip(tree["members"], fleet.members, strict=True):
        entry["plan"] = os.path.relpath(member.plan, folder)
    return tree


def _from_json(tree: Any, path: Path, roster: Path) -> Fleet:
    if tree.get("format_version") != _FORMAT:
        raise StateUnfit(
            f"{roster} is of another format than this planrunner's",
            remedy="Use the planrunner that wrote it.",
        )
    waves = tuple(Wave(**{**wave, "members": tuple(wave["members"])}) for wave in tree["waves"])
    members = tuple(
        Member(
            **{
                **one,
                "plan": path.parent / one["plan"],
                **{name: tuple(one.get(name, ())) for name in ("steps", "files")},
            }
        )
        for one in tree["members"]
    )
    kept = {name: tree[name] for name in ("name", "digest", "max_parallel", "stop_after")}
    return Fleet(path=path, waves=waves, members=members, state=tree.get("state"), **kept)
