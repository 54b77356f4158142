"""The codes of the rules that a plan must keep to load; ``planrunner lint`` names them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from planrunner.model import Problem

UNREADABLE = "PR001"
NOT_OURS = "PR002"
REPEATED_KEY = "PR003"
UNKNOWN_KEY = "PR010"
MISSING_KEY = "PR011"
WRONG_TYPE = "PR012"
NOT_A_CHOICE = "PR013"
WRONG_FORM = "PR014"
OUT_OF_BOUNDS = "PR015"
INCONSISTENT = "PR020"
REPEATED_ID = "PR021"
DSN = "PR022"
PASSWORD = "PR023"  # noqa: S105  # the rule about it
REFERENCE = "PR024"
SAME_DATABASE = "PR025"
ORDER = "PR026"
CONTRADICTION = "PR027"
OVERLAY = "PR028"
FLEET = "PR029"
TEMPLATE = "PR101"
VARIABLE = "PR110"


def coded(problems: Iterable[Problem], code: str) -> Iterator[Problem]:
    """The problems; those that name no rule of their own get this one."""
    return (problem if problem.code else replace(problem, code=code) for problem in problems)
