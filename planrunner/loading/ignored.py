"""What no schema can say of ``ignore``: codes of checks that there are, each once, none that must not be ignored."""

from __future__ import annotations

import json
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, TypedDict, cast

from planrunner.loading import codes
from planrunner.loading.document import Document, Keys, shown
from planrunner.loading.order import entries
from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Json, Problem

_LONGEST = 20
_LISTED = "docs/reference/checks.md lists them."


class Known(TypedDict):
    """What is known of a check without its module: written by ``planrunner.check_pages``."""

    title: str
    never_ignored: str


@cache
def known_checks() -> Mapping[str, Known]:
    """Every check by its code."""
    text = resources.files("planrunner.loading").joinpath("check_codes.json").read_text("utf-8")
    return cast("Mapping[str, Known]", json.loads(text))


def ignoring_faults(document: Document, tree: Json) -> Iterator[Problem]:
    """Every such fault; values of the wrong type are the schema's to tell."""
    for index, step in enumerate(entries(tree)):
        listed = at(step, ("with", "ignore"))
        if step.get("uses") != "validate" or not isinstance(listed, list):
            continue
        seen: set[str] = set()
        for place, entry in enumerate(cast("list[Json]", listed)):
            keys: Keys = ("steps", index, "with", "ignore", place, "check")
            code = at(entry, ("check",))
            if isinstance(code, str):
                yield from _faults(document, keys, code, seen)
                seen.add(code)


def _faults(document: Document, keys: Keys, code: str, seen: set[str]) -> Iterator[Problem]:
    known = known_checks()
    if code not in known:
        text = f"there is no check {shown(code)}"
        wanted = code[:_LONGEST].upper()
        alike = [other for other in known if other[:4] == wanted[:4]]
        near = get_close_matches(wanted, alike or known, n=1)
        lead = f'Did you mean "{near[0]}"?' if near else "Write a code such as PR0203."
        remedy = f"{lead} {_LISTED}"
        yield document.problem(keys, text, remedy, codes.NOT_A_CHOICE)
    elif why := known[code]["never_ignored"]:
        text = f"{code} ({known[code]['title']}) can't be ignored: {why}"
        remedy = f"Mend what it finds: planrunner explain {code} tells how."
        yield document.problem(keys, text, remedy, codes.NOT_A_CHOICE)
    elif code in seen:
        yield document.problem(
            keys, f"{code} is ignored twice", "Keep one entry, with the reason.", codes.OUT_OF_BOUNDS
        )
