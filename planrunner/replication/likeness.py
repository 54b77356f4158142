"""How two databases' catalogues are alike, each kind of thing as one proof: nothing missing, changed or half built."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.replication.providers import OTHERS_EXTENSIONS
from planrunner.replication.relations import Omitted
from planrunner.verification import Proof

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from planrunner.replication.census import Census, Entry

# What is compared as definitions, in the order it is told: its name, what is said when all is well, and what a
# thing is that is there but not whole.
KINDS = {
    "index": ("indexes", "of the same definitions, all valid and ready", "not valid or not ready"),
    "constraint": (
        "constraints",
        "of the same definitions, validated where the other side's are",
        "not validated",
    ),
    "default": ("defaults", "of the same expressions", ""),
    "trigger": ("triggers", "of the same definitions, enabled alike", ""),
    "rule": ("rules", "of the same definitions, enabled alike", ""),
    "view": ("views", "with the same columns", "not filled"),
    "function": ("functions", "with the same bodies and attributes", ""),
    "type": ("types", "of the same definitions", ""),
    "row security": ("row security", "the same tables and policies", ""),
    "inheritance": ("inheritance", "of the same partitions and children, with the same bounds", ""),
}
_SHOWN = 50
_CAST = re.compile(r'::(?:"[^"]+"|[a-z_][\w .]*)(?:\(\d+(?:,\d+)?\))?(?:\[\])*', re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the plan decided: whether owners and grants are kept, what is left out, roles by their new name.

    ``given`` are grants that the migration itself made on the source: (object as the census names it, role).
    """

    owners: bool = True
    grants: bool = True
    omitted: Omitted = field(default_factory=Omitted)
    roles: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[tuple[str, str]] = frozenset()


def proofs(ours: Census, theirs: Census, wish: Wish) -> tuple[Proof, ...]:
    """Every proof that two catalogues give; ``ours`` is the side that is left, ``theirs`` the one that receives."""
    tables = frozenset(e.table for entries in ours.kinds.values() for e in entries.values()) - {
        "",
        *wish.omitted.quoted,
    }
    kinds = [_kind(kind, ours, theirs, wish, tables) for kind in KINDS]
    return (*kinds, _owners(ours, theirs, wish), _grants(ours, theirs, wish), _extensions(ours, theirs))


def listed(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines for a proof's detail, of very many the first fifty."""
    found = sorted(lines)
    more = (f"and {len(found) - _SHOWN} more",) if len(found) > _SHOWN else ()
    return (*found[:_SHOWN], *more)


def _kind(kind: str, ours: Census, theirs: Census, wish: Wish, tables: frozenset[str]) -> Proof:
    name, well, broken = KINDS[kind]
    wanted = {label: e for label, e in ours.of(kind).items() if not _left_out(label, e, wish.omitted)}
    there = theirs.of(kind)
    # An index that is not valid on the source is not carried, but for a partitioned table's, which is part by part.
    dead = {n for n, entry in wanted.items() if kind == "index" and not entry.whole and n not in there}
    wanted = {label: entry for label, entry in wanted.items() if label not in dead}
    both = [(label, wanted[label], there[label]) for label in sorted(wanted.keys() & there.keys())]
    found = [f"{kind} {label}: missing" for label in wanted.keys() - there.keys()]
    beyond = (label for label in there.keys() - wanted.keys() if there[label].table in tables)
    found += [f"{kind} {label}: only on the receiving side" for label in beyond]
    found += [f"{kind} {label}: {_change(a, b)}" for label, a, b in both if a.definition != b.definition]
    # A view that was never filled may be filled on the other side alone.
    found += [f"{kind} {label}: {broken}" for label, a, b in both if a.whole and not b.whole]
    same_major = ours.major == theirs.major
    texts = _texts(kind, both, same_major=same_major)
    found += texts if same_major or kind == "default" else []
    told = [f"{len(both)} of {len(wanted)} on both sides"]
    told += [f"{len(found)} differences"] if found else [well]
    if texts and not same_major and kind != "default":
        told.append(f"{len(texts)} written otherwise by the other major version")
    told += [f"not carried, as they are not valid: {', '.join(sorted(dead))}"] if dead else []
    return Proof(name=name, equal=not found, text=", ".join(told), detail=listed(found or texts))


def _change(ours: Entry, there: Entry) -> str:
    if len(ours.definition) == 32 and " " not in ours.definition:
        return "its body or attributes differ"
    return f"{ours.definition} on the one side, {there.definition} on the other"


def _texts(kind: str, both: list[tuple[str, Entry, Entry]], *, same_major: bool) -> list[str]:
    # A view is written anew by each major version: only its columns can be compared then.
    if kind == "view" and not same_major:
        return []
    # A default is short, and written nearly alike: what is inserted without a value is worth the comparison.
    form = _loosely if kind == "default" and not same_major else _exactly
    return [
        f"{kind} {label}: {a.text or 'none'} on the one side, {b.text or 'none'} on the other"
        for label, a, b in both
        if form(a.text) != form(b.text) and a.definition == b.definition
    ]


def _exactly(text: str) -> str:
    return " ".join(text.split())


def _loosely(text: str) -> str:
    """Without parentheses and casts, which majors write differently."""
    return re.sub(r"[\s()]", "", _CAST.sub("", text))


def _left_out(label: str, entry: Entry, omitted: Omitted) -> bool:
    if entry.table in omitted.quoted:
        return True
    # What is said of a child whose parent stays behind.
    if any(label == f"{entry.table} from {parent}" for parent in omitted.quoted):
        return True
    return any(label == f"{key.table}.{key.name}" for key in omitted.foreign_keys)


def _carried(ours: Census, theirs: Census, kind: str, wish: Wish) -> list[tuple[str, Entry, Entry]]:
    """The things of both sides; that one is missing is told by its own kind."""
    there = theirs.of(kind)
    # The target has a schema public of its own: who it belongs to is a decision.
    return [
        (label, entry, there[label])
        for label, entry in sorted(ours.of(kind).items())
        if label in there and label != "schema public" and not _left_out(label, entry, wish.omitted)
    ]


def _owners(ours: Census, theirs: Census, wish: Wish) -> Proof:
    both = _carried(ours, theirs, "owner", wish)
    if not wish.owners:
        text = f"by decision (owners: login) {len(both)} things belong to the target's login"
        return Proof(name="owners", equal=True, text=text)
    # What only the provider's superuser may make belongs to it there, and to whoever made it here.
    of_provider = ours.of("provider").keys() | theirs.of("provider").keys()
    both = [each for each in both if each[1].definition not in of_provider]
    found = [
        f"{label}: belongs to {b.definition} instead of {wish.roles.get(a.definition, a.definition)}"
        for label, a, b in both
        if wish.roles.get(a.definition, a.definition) != b.definition
    ]
    text = f"{len(both) - len(found)} of {len(both)} things belong to the same role"
    return Proof(name="owners", equal=not found, text=text, detail=listed(found))


def _grants(ours: Census, theirs: Census, wish: Wish) -> Proof:
    if not wish.grants:
        return Proof(name="grants", equal=True, text="by decision (grants: skip) no grant is carried")
    both = _carried(ours, theirs, "grant", wish)
    strangers = ours.of("provider").keys() ^ theirs.of("provider").keys()
    found = [
        f"{label}: {difference}"
        for label, a, b in both
        for difference in _granted(
            _rights(label, a, a.text, wish, map_roles=True), _rights(label, b, a.text, wish), strangers
        )
    ]
    # Of a thing that exists without a grant there is a line, but for columns and defaults.
    found += [
        f"{label}: missing"
        for label, entry in ours.of("grant").items()
        if label not in theirs.of("grant")
        and label.startswith(("column ", "default privileges "))
        and not _left_out(label, entry, wish.omitted)
    ]
    text = f"{len(both)} things compared, {'no difference' if not found else f'{len(found)} differences'}"
    return Proof(name="grants", equal=not found, text=text, detail=listed(found))


def _rights(
    label: str, entry: Entry, owner: str, wish: Wish, *, map_roles: bool = False
) -> dict[str, frozenset[str]]:
    """Who may do what; '' stands for the owner, whoever that is on either side."""
    found: dict[str, frozenset[str]] = {}
    for role, rights in json.loads(entry.definition).items():
        # Without its owner a dump grants the owner's own rights, where they are not the usual ones, by name.
        mine = role == owner and not wish.owners
        if mine or (label, role) in wish.given:
            continue
        found[wish.roles.get(role, role) if map_roles else role] = frozenset(rights)
    return found


def _granted(
    ours: Mapping[str, frozenset[str]], theirs: Mapping[str, frozenset[str]], strangers: AbstractSet[str]
) -> Iterable[str]:
    """The differences; ``strangers`` are the provider's roles that one side does not have at all."""
    for role in sorted({*ours, *theirs} - strangers):
        who = role or "its owner"
        lacking = ours.get(role, frozenset()) - theirs.get(role, frozenset())
        beyond = theirs.get(role, frozenset()) - ours.get(role, frozenset())
        if lacking:
            yield f"{who} lacks {', '.join(sorted(lacking))}"
        if beyond:
            yield f"{who} has {', '.join(sorted(beyond))} beyond the other side"


def _extensions(ours: Census, theirs: Census) -> Proof:
    wanted = {n: e for n, e in ours.of("extension").items() if not n.startswith(OTHERS_EXTENSIONS)}
    there = theirs.of("extension")
    missing = [
        f"extension {name} {entry.text}: missing" for name, entry in wanted.items() if name not in there
    ]
    versions = [
        f"{name} {entry.text}" + (f" → {there[name].text}" if there[name].text != entry.text else "")
        for name, entry in sorted(wanted.items())
        if name in there
    ]
    text = ", ".join(versions) or ("none of the others' is there" if missing else "no extension is used")
    return Proof(name="extensions", equal=not missing, text=text, detail=listed(missing))
