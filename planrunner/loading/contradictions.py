"""Options that are each valid and can't both be meant."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, cast

from planrunner import units
from planrunner.loading import codes, dsn
from planrunner.loading.document import Document, Keys, shown
from planrunner.loading.order import entries
from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Json, Problem

_RISING = ("warn", "pause", "give_up")


def contradictions(document: Document, tree: Json, told: frozenset[Keys]) -> list[Problem]:
    """Every pair of options that exclude one another; values of the wrong type are passed over."""
    found: list[Problem] = []
    for side in ("source", "target", "replica"):
        found += _tls(document, tree, side, told)
    for index, step in enumerate(entries(tree)):
        keys: Keys = ("steps", index, "with")
        options = step.get("with")
        if isinstance(options, dict):
            found += _thresholds(document, (*keys, "max_wal_retained"), options.get("max_wal_retained"))
            found += _tables_twice(document, (*keys, "filters"), options.get("filters"))
            found += _frozen(document, tree, keys, cast("Mapping[str, Json]", options))
    return [*found, *_polling(document, tree)]


# What only a stream has, by step and option: the values that can't be had without one, None: any.
_STREAMED: Mapping[str, Mapping[str, tuple[Json, ...] | None]] = {
    "snapshot": {"streams": None, "split_above": None, "from": ("replica", "restore")},
    "sync": dict.fromkeys(
        (
            "max_lag",
            "timeout",
            "max_wal_retained",
            "failover",
            "synchronous_commit",
            "replication_role",
            "replication_role_lifetime",
        )
    ),
    "cutover_verify": {"reverse": (True,), "verify": ("changed",)},
}
_POLLED = ("interval", "reconcile_interval", "keep_polling")


def _polling(document: Document, tree: Json) -> Iterator[Problem]:
    """Options of one mode of following in a plan of the other."""
    given = [(index, step, at(step, ("with",))) for index, step in enumerate(entries(tree))]
    polls = any(step.get("uses") == "sync" and at(step, ("with", "mode")) == "poll" for _, step, _ in given)
    for index, step, options in given:
        for name, value in options.items() if isinstance(options, dict) else ():
            keys: Keys = ("steps", index, "with", name)
            if polls and _needs_stream(str(step.get("uses")), name, value):
                text = f"{name}: {_told(value)} needs logical decoding, and the sync step says mode: poll"
                remedy = "Take it out, or follow by mode: stream from a source with wal_level = logical."
                yield document.problem(keys, text, remedy, codes.CONTRADICTION)
            elif not polls and step.get("uses") == "sync" and name in _POLLED:
                text = f"{name} means something with mode: poll only"
                yield document.problem(
                    keys, text, "Write mode: poll beside it, or take it out.", codes.CONTRADICTION
                )


def _needs_stream(uses: str, name: str, value: Json) -> bool:
    options = _STREAMED.get(uses, {})
    if name not in options:
        return False
    values = options[name]
    return values is None or value in values


def _told(value: Json) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "…" if isinstance(value, dict | list) else str(value)


def _tls(document: Document, tree: Json, side: str, told: frozenset[Keys]) -> Iterator[Problem]:
    keys: Keys = ("connections", side)
    text = at(tree, (*keys, "dsn"))
    parsed = dsn.parse(text) if isinstance(text, str) and (*keys, "dsn") not in told else None
    mode = parsed.parameters.get("sslmode") if parsed is not None and not parsed.faults else None
    if mode is None:
        return
    if at(tree, (*keys, "allow_self_signed_certs")) is True and mode != "require":
        said = f"the DSN says sslmode={mode}, allow_self_signed_certs: true is sslmode=require"
        remedy = "Take one of the two out; to verify the server keep verify-full and add sslrootcert=FILE."
        yield document.problem((*keys, "allow_self_signed_certs"), said, remedy, codes.CONTRADICTION)
    if mode == "disable" and parsed is not None and "sslrootcert" in parsed.parameters:
        said, remedy = (
            "sslmode=disable, and yet an sslrootcert",
            "Write sslmode=verify-full, or take sslrootcert out.",
        )
        yield document.problem((*keys, "dsn"), said, remedy, codes.CONTRADICTION)
    if at(tree, (*keys, "password", "rds_iam")) is True and mode == "disable":
        said = "rds_iam needs TLS, the DSN says sslmode=disable: a token is as good as a password"
        remedy = "Write sslmode=verify-full in the DSN, or take sslmode out."
        yield document.problem((*keys, "password", "rds_iam"), said, remedy, codes.CONTRADICTION)


def _frozen(document: Document, tree: Json, keys: Keys, options: Mapping[str, Json]) -> Iterator[Problem]:
    if options.get("from") == "replica" and at(tree, ("connections", "replica")) is None:
        text = "from: replica, and the plan names no replica"
        remedy = "Name the standby: connections.replica: {dsn: …, password: …}."
        yield document.problem((*keys, "from"), text, remedy, codes.CONTRADICTION)
    if options.get("from") == "restore" and at(tree, ("connections", "source", "rds")) is None:
        text = "from: restore, and the plan names no instance of the source"
        remedy = "Name it: connections.source.rds: {instance: …}."
        yield document.problem((*keys, "from"), text, remedy, codes.CONTRADICTION)
    if "freeze" in options and options.get("from", "primary") in {"primary", "restore"}:
        text, remedy = (
            "freeze, and yet no standby is read",
            "Write from: replica, or take freeze out.",
        )
        yield document.problem((*keys, "freeze"), text, remedy, codes.CONTRADICTION)


def _thresholds(document: Document, keys: Keys, given: Json) -> Iterator[Problem]:
    sizes = {name: _size(value) for name in _RISING if (value := at(given, (name,))) is not None}
    known = {name: value for name, value in sizes.items() if value is not None}
    for low, high in combinations(known, 2):
        if known[low] > known[high]:
            text = f"{low} is above {high}"
            remedy = "They rise: {warn: 20GB, pause: 40GB, give_up: 50GB}."
            yield document.problem((*keys, low), text, remedy, codes.CONTRADICTION)


def _size(value: Json) -> int | None:
    try:
        return units.size(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def _tables_twice(document: Document, keys: Keys, filters: Json) -> Iterator[Problem]:
    if not isinstance(filters, dict):
        return
    given = cast("Mapping[str, Json]", filters)
    excluded = _listed(given, "exclude")
    for name in ("include", "schema_only"):
        for index, pattern in enumerate(_listed(given, name)):
            if isinstance(pattern, str) and pattern in excluded:
                text = f"{shown(pattern)} is also in exclude, which wins"
                remedy = "Keep it in one of them."
                yield document.problem((*keys, name, index), text, remedy, codes.CONTRADICTION)


def _listed(filters: Mapping[str, Json], name: str) -> list[Json]:
    value = filters.get(name)
    return cast("list[Json]", value) if isinstance(value, list) else []
