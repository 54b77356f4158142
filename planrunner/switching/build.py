"""From the entries of a plan to what switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from planrunner.aws.policy import secret_arn
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


def iam_needs(given: object, folder: Path) -> tuple[str, ...]:
    """The IAM actions of the entries, each with the ARN of what it is called on: ``ACTION on ARN``."""
    return tuple(need for entry in entries(given, folder) for need in _iam_of(entry))


def _iam_of(entry: Entry) -> tuple[str, ...]:
    match entry:
        case Route53Terms():
            arn = f"arn:aws:route53:::hostedzone/{entry.zone_id}"
            verbs = ("route53:ChangeResourceRecordSets", "route53:ListResourceRecordSets")
        case SecretsManagerTerms():
            arn = secret_arn(entry.secret_id, entry.access.region)
            verbs = ("secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue")
        case CommandTerms() | PgBouncerTerms():
            return ()
        case _:
            assert_never(entry)
    return tuple(f"{verb} on {arn}" for verb in verbs)


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
