"""Asks at the terminal for what ``planrunner init`` was not told; every question has a default and is asked again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import typer

from planrunner.cli import screen
from planrunner.errors import UsageError
from planrunner.loading import dsn
from planrunner.loading.wishes import KINDS, Keeping, Wishes, usable_dsn, usable_name

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")
_INTRO = """\
A few questions, and the plan is written. Enter takes what stands in brackets; Ctrl-C ends it and writes nothing."""
_DSN = """
The {side}: the database to move {way}, as postgresql://USER@HOST:PORT/DATABASE. Leave the password out;
it is asked for next, where it is kept. TLS is found out unless you add ?sslmode=…"""
_KEEPING = """
How is the {side}'s password kept? The plan refers to it and never holds it.
  env                 in an environment variable       file                in a file beside the plan
  command             a command prints it              aws_secretsmanager  AWS Secrets Manager
  aws_ssm             AWS Parameter Store              rds_iam             no password: RDS IAM tokens
  pgpass              in ~/.pgpass, as libpq does"""
_WHERE = {
    "env": ("The variable's name", "{side_upper}_PASSWORD"),
    "file": ("The file, in the plan's folder or below it", "./{side}.password"),
    "command": ("The command that prints it; no shell is involved", "op read op://infra/{side}/password"),
    "aws_secretsmanager": ("The secret's name or ARN", "prod/{side}/migrator"),
    "aws_ssm": ("The parameter's name or ARN", "/prod/{side}/migrator"),
}
_RDS = """
Is the source an RDS instance? Its identifier lets planrunner set logical replication and reboot it, once.
A dash means that it is none."""
_REVERSE = """
The way back: from the cutover on the source follows the target, so that `planrunner rollback` can return
without losing what was written there. The target needs wal_level logical for it."""
_APPROVAL = """
Before the cutover the run can wait for `planrunner approve` (manual), or go on by itself (auto)."""
_REBOOT = """
RDS turns logical replication on with a reboot, for which every session is cut off: ask before it, allow it at
once, in_window (in the instance's maintenance window), or never (somebody else reboots)."""
_NAME = "\nThe plan's name; names on the servers derive from it."


def ask(given: Wishes, *, said: frozenset[str]) -> Wishes:
    """The wishes with every answer; what was ``said`` by flags is not asked. typer.Abort on Ctrl-C."""
    screen.out(_INTRO)
    wishes = given
    for side in ("source", "target"):
        if not wishes.dsn(side):
            wishes = _with(wishes, side, _ask_dsn(wishes, side))
        if wishes.keeping(side) is None:
            wishes = _with(wishes, f"{side}_password", _ask_keeping(side))
    wishes = _ask_rds(wishes)
    if wishes.reverse is None:
        screen.out(_REVERSE)
        wishes = replace(wishes, reverse=typer.confirm("A way back", default=True))
    if "approval" not in said:
        screen.out(_APPROVAL)
        wishes = replace(wishes, approval=_ask_word("Approval", "manual", ("manual", "auto")))
    if wishes.name is None:
        screen.out(_NAME)
        wishes = replace(wishes, name=_asked("Name", wishes.plan_name(), _name))
    return wishes


def _with(wishes: Wishes, field: str, value: object) -> Wishes:
    return replace(wishes, **{field: value})  # type: ignore[arg-type]


def _asked(question: str, default: str, read: Callable[[str], _Answer]) -> _Answer:
    """Ask until ``read`` takes the answer; its UsageError is told before the question is asked again."""
    while True:
        answer = typer.prompt(question, default=default)
        try:
            return read(str(answer).strip())
        except UsageError as error:
            screen.tell_error(error)


def _ask_dsn(wishes: Wishes, side: str) -> str:
    way = "from" if side == "source" else "to"
    screen.out(_DSN.format(side=side, way=way))
    example = dsn.without_password(wishes.source) if side == "target" else ""
    user, database = "migrator", "app"
    if example:
        found = dsn.parse(example).parameters
        user, database = found.get("user", user), found.get("dbname", database)
    host = "old.example.com" if side == "source" else "new.example.com"

    def read(text: str) -> str:
        usable_dsn(side, text)
        if side == "target" and dsn.parse(text).place == dsn.parse(wishes.source).place:
            raise UsageError("this is the source itself", remedy="Name the new database.")
        return text

    return _asked(side.capitalize(), f"postgresql://{user}@{host}:5432/{database}", read)


def _ask_keeping(side: str) -> Keeping:
    screen.out(_KEEPING.format(side=side))
    kind = _ask_word("Kept in", "env", KINDS)
    if kind not in _WHERE:
        return Keeping(kind=kind)
    question, default = _WHERE[kind]
    suggested = default.format(side=side, side_upper=side.upper())
    return _asked(question, suggested, lambda text: Keeping.of(f"{kind}:{text}"))


def _ask_word(question: str, default: str, words: tuple[str, ...]) -> str:
    def read(text: str) -> str:
        if text not in words:
            raise UsageError(f"expected one of {', '.join(words)}", remedy=f"For example: {default}")
        return text

    return _asked(question, default, read)


def _ask_rds(wishes: Wishes) -> Wishes:
    host = wishes.host("source")
    if wishes.rds_instance is None and host.cluster is None:
        screen.out(_RDS)
        answer = _asked("RDS instance", host.instance or "-", _identifier)
        if answer == "-":
            return wishes
        wishes = replace(wishes, rds_instance=answer)
    if wishes.rds_instance is None:
        return wishes
    if wishes.rds_region is None:
        region = _asked("Its region", host.region or "us-east-1", _identifier)
        wishes = replace(wishes, rds_region=region)
    screen.out(_REBOOT)
    return replace(wishes, reboot=_ask_word("Reboot", wishes.reboot, ("ask", "allow", "in_window", "never")))


def _identifier(text: str) -> str:
    if not all(char.isascii() and (char.isalnum() or char == "-") for char in text):
        raise UsageError("expected letters, digits and dashes", remedy="As the RDS console shows it.")
    return text


def _name(text: str) -> str:
    usable_name(text)
    return text
