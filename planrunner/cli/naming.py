"""Finds checks and sections by what stands on the command line, and says which there are when there is none."""

from __future__ import annotations

from difflib import get_close_matches

from planrunner.catalogue import checks
from planrunner.errors import UsageError
from planrunner.postgres.preflight_section import SECTIONS


def check_code(given: str) -> str:
    """The code as it is written; UsageError for one that there is not."""
    known, wanted = list(checks()), given.upper()
    if wanted in known:
        return wanted
    alike = [code for code in known if code[:4] == wanted[:4]]
    close = get_close_matches(wanted, alike or known, 1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise UsageError(f"there is no check {given!r}", remedy=f"{hint}`planrunner explain checks` lists them.")


def section_titles(given: str) -> tuple[str, ...]:
    """The section of that title, or those whose title holds the word; UsageError where there is none."""
    word = given.casefold()
    exact = tuple(title for title in SECTIONS if title.casefold() == word)
    near = exact or tuple(title for title in SECTIONS if word and word in title.casefold())
    if not near:
        raise UsageError(f"there is no section {given!r}", remedy=f"There are: {', '.join(SECTIONS)}.")
    return near
