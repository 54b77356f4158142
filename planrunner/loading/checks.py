"""What no schema can say: ids used twice, DSNs that are wrong, secrets that are ambiguous or out of reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.loading import codes, dsn
from planrunner.loading.document import Document, Keys, shown
from planrunner.loading.flow_checks import flow_faults, secret_places
from planrunner.loading.ingress import ingress_faults
from planrunner.loading.lines import line_faults
from planrunner.loading.places import at
from planrunner.loading.pool import pool_faults
from planrunner.loading.references import secret_faults, stays_inside
from planrunner.loading.seren import seren_faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.model import Json, Problem

_SIDES = ("source", "target", "replica")


def faults(document: Document, tree: Json, told: frozenset[Keys], folder: Path) -> list[Problem]:
    """Every such fault; values of the wrong type are the schema's to tell and passed over."""
    found = [*_repeated_ids(document, tree)]
    strings: dict[str, dsn.Dsn] = {}
    for side in _SIDES:
        keys: Keys = ("connections", side, "dsn")
        text = at(tree, keys)
        if isinstance(text, str) and text and keys not in told:
            strings[side] = dsn.parse(text)
            found += [_dsn_problem(document, keys, fault) for fault in strings[side].faults]
        found += secret_faults(document, tree, ("connections", side, "password", "secret"), folder)
        named: Keys = ("connections", side, "replication", "password", "secret")
        found += secret_faults(document, tree, named, folder)
        found += _login_faults(document, tree, side, strings)
    found += _same_database(document, strings)
    found += line_faults(document, tree, strings, folder)
    found += ingress_faults(document, tree)
    found += seren_faults(document, tree, strings)
    found += secret_faults(document, tree, ("connections", "target", "seren", "api_key", "secret"), folder)
    found += pool_faults(document, tree)
    variables = at(tree, ("vars",))
    for name in cast("dict[str, Json]", variables) if isinstance(variables, dict) else ():
        found += secret_faults(document, tree, ("vars", name, "secret"), folder)
    for keys in (*_secrets_below(at(tree, ("steps",)), ("steps",)), *secret_places(tree)):
        found += secret_faults(document, tree, keys, folder)
    return found + flow_faults(document, tree, folder, stays_inside)


def _dsn_problem(document: Document, keys: Keys, fault: dsn.Fault) -> Problem:
    code = codes.PASSWORD if fault.is_password else codes.DSN
    return document.problem(keys, fault.message, fault.remedy, code)


def _secrets_below(value: Json, keys: Keys) -> Iterator[Keys]:
    """Where the options of steps refer to a password."""
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Json]", value).items():
            if keys[-1] == "password" and name == "secret":
                yield (*keys, name)
            else:
                yield from _secrets_below(inner, (*keys, name))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Json]", value)):
            yield from _secrets_below(inner, (*keys, index))


def _repeated_ids(document: Document, tree: Json) -> Iterator[Problem]:
    steps = at(tree, ("steps",))
    seen: dict[str, Keys] = {}
    for index in range(len(cast("list[Json]", steps)) if isinstance(steps, list) else 0):
        keys: Keys = ("steps", index, "id")
        name = at(tree, keys)
        if isinstance(name, str) and name in seen:
            line = document.values[seen[name]].line
            text = f"the id {shown(name)} is used twice; first on line {line}"
            yield document.problem(keys, text, "Give each step an id of its own.", codes.REPEATED_ID)
        elif isinstance(name, str):
            seen[name] = keys


def _login_faults(
    document: Document, tree: Json, side: str, strings: dict[str, dsn.Dsn]
) -> Iterator[Problem]:
    keys: Keys = ("connections", side, "password", "rds_iam")
    parsed = strings.get(side)
    if at(tree, keys) is not True or parsed is None or parsed.faults:
        return
    missing = [name for name in ("host", "user") if not parsed.parameters.get(name)]
    if missing:
        text = f"a token is signed for host and user; the DSN names no {' and no '.join(missing)}"
        yield document.problem(keys, text, "Write postgresql://USER@HOST:PORT/DATABASE.", codes.DSN)


def _same_database(document: Document, strings: dict[str, dsn.Dsn]) -> Iterator[Problem]:
    pair = [strings[side] for side in ("source", "target") if side in strings]
    if len(pair) < 2 or any(parsed.faults for parsed in pair):
        return
    source, target = pair
    if not source.parameters.get("service") and source.place == target.place:
        text = "source and target are the same database"
        yield document.problem(
            ("connections", "target", "dsn"), text, "Name the new database here.", codes.SAME_DATABASE
        )
