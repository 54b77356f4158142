"""The members that AWS lists: what is asked for, what was told at the first run, and what has changed since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planrunner.aws.discovery import Listed
from planrunner.errors import StateUnfit
from planrunner.fleet.model import Row, Value
from planrunner.fleet.tree import mapping_at
from planrunner.loading import codes
from planrunner.references import access

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.fleet.folder import Folder
    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem, RdsInstance

_RDS: Keys = ("inventory", "rds")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What AWS is asked for."""

    access: RdsInstance
    tags: Mapping[str, str]

    def to_json(self) -> Json:
        """What a list was made of: another wish makes it stale."""
        reach = (self.access.region, self.access.profile, self.access.endpoint_url)
        role = self.access.assume_role
        return {"tags": dict(self.tags), "reach": [*reach, role.arn if role else None]}


def wish_of(document: Document) -> Wish | None:
    """What the fleet's file asks AWS for; None where it does not, or not in a way that can be used."""
    given = mapping_at(document, _RDS)
    tags = {key: str(value) for key, value in mapping_at(document, (*_RDS, "tags")).items()}
    if not given or not tags:
        return None
    return Wish(access=access("the fleet's inventory", given), tags=tags)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What AWS told of a wish, now or at the first run."""

    listed: tuple[Listed, ...]

    @classmethod
    def kept(cls, folder: Folder, wish: Wish | None = None) -> Known | None:
        """The list of the first run; None where there is none. StateUnfit when it was made of another ``wish``."""
        tree = folder.read(folder.listed)
        if tree is None:
            return None
        if wish is not None and tree["wish"] != wish.to_json():
            raise StateUnfit(
                f"{folder.listed} was listed by other tags, or elsewhere, than the fleet's file says now",
                remedy="List anew with: planrunner fleet run FLEET --rediscover; or take the edit back.",
            )
        return cls(listed=tuple(Listed(**one) for one in tree["listed"]))

    def keep(self, folder: Folder, wish: Wish) -> None:
        """Keep the list, so that an edited tag does not change a fleet that is at work."""
        listed: list[Any] = [{"attributes": dict(o.attributes), "tags": dict(o.tags)} for o in self.listed]
        folder.write(folder.listed, {"wish": wish.to_json(), "listed": listed})

    def changes_from(self, former: Known) -> tuple[str, ...]:
        """What differs from an earlier list, a line each."""
        before = {one.identifier: one for one in former.listed}
        now = {one.identifier: one for one in self.listed}
        lines = [f"new: {name}" for name in now if name not in before]
        lines += [f"gone: {name}" for name in before if name not in now]
        lines += [
            f"changed: {name}: {', '.join(_changed(before[name], now[name]))}"
            for name in now
            if name in before and now[name] != before[name]
        ]
        return tuple(lines)


def rows(
    document: Document, known: Known, written: Sequence[Row]
) -> tuple[tuple[Row, ...], tuple[Problem, ...]]:
    """A row for each that is listed, its name its identifier, and what it lacks that the file asks for.

    Who is ``written`` down is meant as it is written, also where AWS lists it too.
    """
    names = {row.name.casefold() for row in written}
    listed = [one for one in known.listed if one.identifier.casefold() not in names]
    wanted = {
        name: attribute
        for name, attribute in mapping_at(document, (*_RDS, "vars")).items()
        if isinstance(attribute, str)
    }
    found = tuple(_row(document, one, wanted) for one in listed)
    return found, tuple(p for one in listed for p in _lacking(document, one, wanted))


def _row(document: Document, one: Listed, wanted: Mapping[str, str]) -> Row:
    told = {name: one.value(attribute) for name, attribute in wanted.items()}
    values = {
        name: Value(text=text, document=document, keys=(*_RDS, "vars", name))
        for name, text in told.items()
        if text is not None
    }
    return Row(name=one.identifier, document=document, keys=_RDS, values=values)


def _lacking(document: Document, one: Listed, wanted: Mapping[str, str]) -> Iterator[Problem]:
    for name, attribute in wanted.items():
        if one.value(attribute) is None:
            text = f"{one.identifier} has no {attribute}"
            remedy = "Tag it, or write its row out in inventory.rows under the same name."
            yield document.problem((*_RDS, "vars", name), text, remedy, codes.FLEET)


def _changed(before: Listed, now: Listed) -> Iterator[str]:
    for kind, old, new in (("", before.attributes, now.attributes), ("tag:", before.tags, now.tags)):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield f"{kind}{key} {old.get(key, 'none')} → {new.get(key, 'none')}"
