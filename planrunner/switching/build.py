"""From the entries of a plan to what switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from planrunner.switching.cloud import Route53, SecretsManager
from planrunner.switching.command import Command
from planrunner.switching.hooks import Switching
from planrunner.switching.pgbouncer import PgBouncer
from planrunner.switching.terms import (
    CommandTerms,
    PgBouncerTerms,
    Route53Terms,
    SecretsManagerTerms,
    entries,
)

if TYPE_CHECKING:
    from pathlib import Path

    from planrunner.switching.hooks import Surroundings, Switch
    from planrunner.switching.terms import Entry


def switching(given: object, folder: Path, surroundings: Surroundings) -> Switching:
    """Everything that a step's valid option ``switch`` names; ``folder`` is the plan's."""
    return Switching([_switch(entry, surroundings) for entry in entries(given, folder)], surroundings)


def _switch(entry: Entry, surroundings: Surroundings) -> Switch:
    match entry:
        case CommandTerms():
            return Command(entry, surroundings)
        case PgBouncerTerms():
            return PgBouncer(entry, surroundings)
        case Route53Terms():
            return Route53(entry, surroundings)
        case SecretsManagerTerms():
            return SecretsManager(entry, surroundings)
        case _:
            assert_never(entry)
