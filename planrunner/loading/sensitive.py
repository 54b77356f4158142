"""Sensitive variables: which values they may have, and where in a plan they may stand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planrunner.loading import dsn
from planrunner.loading.places import at
from planrunner.masking import HIDDEN, SHORTEST, hush

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.loading.document import Document, Keys
    from planrunner.loading.render import Rendered
    from planrunner.model import Json, Problem

_NUMBER_OR_WORD = re.compile(r"[-+0-9.eE]+|true|false|null")
# What stands below these keys is the command line of a child, which every process can read.
_COMMANDS = frozenset({"command", "before_fence", "after_commit", "on_rollback"})
# Below these keys of a step, or of its hooks, a value is an option; all else decides how the plan runs.
_OPTIONS = frozenset({"with", "env"})
_REMEDY = "Use it in a DSN or in a step's options."
_VARIABLE = re.compile(r"\bvars\s*\.\s*(\w+)")


def unfit(value: Json) -> tuple[str, str | None] | None:
    """Why a value can't be a sensitive variable's, and what to do; never shows it."""
    if not isinstance(value, str):
        return "expected text; a sensitive value of another kind can't be masked", "Put it in quotes."
    if len(value) < SHORTEST:
        text = f"a sensitive value of less than {SHORTEST} characters can't be masked"
        return text, "Choose a longer one, or declare it without sensitive: true."
    if _NUMBER_OR_WORD.fullmatch(value):
        text = "a sensitive value that is a number or true, false or null can't be masked"
        return text, "Choose another one, or declare it without sensitive: true."
    return None


def refusal(keys: Keys) -> tuple[str, str] | None:
    """Why no sensitive variable can stand at ``keys``, and what to do instead; None where one can."""
    if keys[0] == "metadata":
        return "a sensitive variable can't stand here: this is shown everywhere", _REMEDY
    if _COMMANDS & set(keys):
        return (
            "a sensitive variable can't stand in a command: every process can read it there",
            "Let the command look the value up by itself, for example in its environment.",
        )
    if keys[0] == "steps" and not _OPTIONS & set(keys[2:-1]):
        return "a sensitive variable can't stand here", _REMEDY
    return None


def sensitive_faults(
    document: Document, sealed: Rendered, told: frozenset[Keys], names: frozenset[str]
) -> Iterator[Problem]:
    """DSNs that hide more than can be hidden, and conditions on sensitive variables, which are ``names``.

    ``sealed`` is the plan with ``***`` for sensitive values.
    """
    yield from _condition_faults(document, sealed.tree, names)
    for keys in sorted(sealed.sensitive - told, key=str):
        text = at(sealed.tree, keys)
        if keys[-1] != "dsn" or not isinstance(text, str):
            continue
        parsed = dsn.parse(text).parameters
        if HIDDEN in parsed.get("dbname", "" if "service" in parsed else HIDDEN):
            yield document.problem(
                keys,
                "the database's name can't be sensitive: the plan's id follows from it, and reports name it",
                "Write postgresql://USER@HOST:PORT/DATABASE with DATABASE in plain; user and host may be sensitive.",
            )


def _condition_faults(document: Document, tree: Json, names: frozenset[str]) -> Iterator[Problem]:
    steps = at(tree, ("steps",)) if names else None
    for index in range(len(steps) if isinstance(steps, list) else 0):
        keys: Keys = ("steps", index, "when")
        text = at(tree, keys)
        if isinstance(text, str) and names & set(_VARIABLE.findall(text)):
            # Whether the step runs would tell what the value is.
            yield document.problem(
                keys, "a sensitive variable can't decide whether a step runs", "Use another one."
            )


def hush_parts(sealed: Rendered, tree: Json) -> None:
    """Hush what a DSN's sensitive parts come to: the rest of the program knows them by parameter, decoded."""
    for keys in sealed.sensitive:
        shown, real = at(sealed.tree, keys), at(tree, keys)
        if not isinstance(shown, str) or not isinstance(real, str) or not _is_dsn(keys, shown):
            continue
        masked, known = dsn.parse(shown).parameters, dsn.parse(real).parameters
        for name, value in known.items():
            if HIDDEN in masked.get(name, HIDDEN):
                hush(value)


def _is_dsn(keys: Keys, text: str) -> bool:
    return keys[-1] == "dsn" or "://" in text or "host=" in text
