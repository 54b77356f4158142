"""Good practice: what loads and is still likely to be regretted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from planrunner.linting import rules
from planrunner.loading import dsn
from planrunner.loading.order import ancestors, entries, rehearses
from planrunner.loading.places import at
from planrunner.loading.variables import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.loading.build import Examination
    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_USED = re.compile(r"\bvars\s*(?:\.\s*(\w+)|\[\s*['\"](\w+)['\"]\s*\])")
_HERE = ("localhost", "127.0.0.1", "::1")
_PROVEN = ("verify-full", "verify-ca")


def advice(found: Examination, environ: Mapping[str, str]) -> list[Problem]:
    """What a plan that loads could do better."""
    document, tree = found.document, found.tree
    steps = entries(tree)
    before = ancestors(steps)
    return [
        *_connections(document, tree),
        *_cutovers(document, steps, before),
        *_copies(document, steps, before),
        *_options(document, steps),
        *_variables(document, environ),
    ]


def _connections(document: Document, tree: Json) -> Iterator[Problem]:
    for side in ("source", "target"):
        keys: Keys = ("connections", side)
        text = at(tree, (*keys, "dsn"))
        given = dsn.parse(text).parameters if isinstance(text, str) else {}
        hosts = (given.get("host") or given.get("hostaddr") or "localhost").split(",")
        if all(host in _HERE or host.startswith("/") for host in hosts):
            continue
        own = at(tree, (*keys, "allow_self_signed_certs")) is True
        mode = "require" if own else given.get("sslmode", "verify-full")
        if mode not in _PROVEN:
            place = (*keys, "allow_self_signed_certs" if own else "dsn")
            text = f"the {side} is not verified: sslmode={mode}" + (
                " by allow_self_signed_certs" if own else ""
            )
            remedy = (
                "Leave sslmode out (verify-full) and name the CA: sslrootcert=FILE, or sslrootcert=system."
            )
            yield document.problem(place, text, remedy, rules.UNVERIFIED_SERVER)


def _cutovers(
    document: Document, steps: Sequence[Mapping[str, Json]], before: Sequence[frozenset[int]]
) -> Iterator[Problem]:
    real = [i for i, step in enumerate(steps) if step.get("uses") == "cutover_verify" and not rehearses(step)]
    for index in real:
        step, keys = steps[index], ("steps", index)
        asked = step.get("approval") == "manual" or any(
            steps[i].get("uses") == "approve" for i in before[index]
        )
        if not asked:
            remedy = "Write approval: manual; then it waits for planrunner approve."
            yield document.problem(keys, "the cutover waits for nobody", remedy, rules.UNATTENDED_CUTOVER)
        if at(cast("Json", step), ("with", "reverse")) is not True:
            remedy = "Write reverse: true in its with, so that planrunner rollback loses nothing."
            yield document.problem(keys, "the cutover has no way back", remedy, rules.NO_WAY_BACK)
        if not any(other.get("uses") == "sync" for other in steps):
            remedy = "Put a step before it: {id: follow, uses: sync}"
            yield document.problem(keys, "no step follows the source", remedy, rules.CUTOVER_WITHOUT_SYNC)
    yield from _twice(document, real, "a second cutover")


def _copies(
    document: Document, steps: Sequence[Mapping[str, Json]], before: Sequence[frozenset[int]]
) -> Iterator[Problem]:
    copies = [index for index, step in enumerate(steps) if step.get("uses") == "snapshot"]
    for index in copies[:1]:
        if not any(steps[i].get("uses") == "validate" for i in before[index]):
            remedy = "Put a step before it: {id: check, uses: validate}"
            yield document.problem(
                ("steps", index), "nothing is checked before the copy", remedy, rules.NO_PREFLIGHT
            )
    for index, step in enumerate(steps):
        if step.get("uses") in {"enable_logical", "grant"} and before[index].intersection(copies):
            remedy = "Move it above the step that uses snapshot."
            text = f"{step['uses']} runs after the copy that needs it"
            yield document.problem(("steps", index), text, remedy, rules.LATE_PREPARATION)
    yield from _twice(document, copies, "a second snapshot")


def _twice(document: Document, places: Sequence[int], what: str) -> Iterator[Problem]:
    for index in places[1:]:
        line = document.problem(("steps", places[0]), "").line
        text = f"{what}; the first stands on line {line}"
        yield document.problem(
            ("steps", index), text, "Put what both ask for into one step.", rules.STEP_TWICE
        )


def _options(document: Document, steps: Sequence[Mapping[str, Json]]) -> Iterator[Problem]:
    for index, step in enumerate(steps):
        keys: Keys = ("steps", index)
        given = cast("Json", step)
        if step.get("uses") == "sync" and at(given, ("with", "max_wal_retained")) is None:
            remedy = "Write max_wal_retained: 50GB in its with, or what the source's disk can spare."
            yield document.problem(keys, "nothing bounds the source's WAL", remedy, rules.UNBOUNDED_WAL)
        if at(given, ("with", "reboot")) == "allow" and step.get("approval") != "manual":
            remedy = "Write reboot: ask, or approval: manual."
            yield document.problem(keys, "the source may be rebooted unasked", remedy, rules.REBOOT_UNASKED)
        if at(given, ("with", "max_load")) is not None and at(given, ("with", "verify")) in {
            "counts",
            "digests",
        }:
            text = f"max_load does nothing with verify: {at(given, ('with', 'verify'))}"
            remedy = "Live verification waits for it: write verify: changed, or take max_load out."
            yield document.problem((*keys, "with", "max_load"), text, remedy, rules.WITHOUT_EFFECT)


def _variables(document: Document, environ: Mapping[str, str]) -> Iterator[Problem]:
    declared = at(document.tree, ("vars",))
    names = set(cast("Mapping[str, Json]", declared)) if isinstance(declared, dict) else set[str]()
    used = set(_used(document.tree, ()))
    for name in sorted(names - used):
        remedy = f"Use it as {{{{ vars.{name} }}}}, or take it out."
        yield document.problem_with_name(
            ("vars", name), f"the variable {name} is not used", remedy, rules.UNUSED_VARIABLE
        )
    for key in sorted(environ):
        name = key.removeprefix(ENVIRONMENT_PREFIX)
        if key.startswith(ENVIRONMENT_PREFIX) and name not in names:
            remedy = f"Unset it, or declare {name} in vars."
            text = f"{key} is set, and the plan declares no such variable"
            yield document.problem_with_name(("vars",), text, remedy, rules.UNKNOWN_IN_ENVIRONMENT)


def _used(value: Json, keys: Keys) -> Iterator[str]:
    if keys == ("vars",):
        return
    if isinstance(value, dict):
        for name, inner in cast("dict[str, Json]", value).items():
            yield from _used(inner, (*keys, name))
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[Json]", value)):
            yield from _used(inner, (*keys, index))
    elif isinstance(value, str):
        if keys[-1:] == ("when",):
            # A condition is an expression as a whole.
            yield from (dotted or quoted for dotted, quoted in _USED.findall(value))
        for template in _TEMPLATE.findall(value):
            yield from (dotted or quoted for dotted, quoted in _USED.findall(template))
