"""Every command of the command line as it ends well and as it fails, in a place full of secrets.

What commands there are is asked of the command line itself: one that has no case here is missed by a test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from planrunner.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.canary_place import Place

PLAN = ("plan.yaml", "--var-file", "values.yaml")
YES = ("--yes", "--no-input")
AGAIN = ("--state", "again.json")
FLEET = "school.yaml"
_SECRET = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command's words after its name; ``code`` None for any that is a failure's."""

    verb: str
    words: tuple[str, ...]
    code: int | None = 0

    @property
    def name(self) -> str:
        return f"{self.verb} {' '.join(self.words)}"

    def perform(self, place: Place, **environment: str) -> str:
        """Perform it with the place's secrets in its words; what it says is kept under its name."""
        words = [_SECRET.sub(lambda match: place.words[match[1]], word) for word in self.words]
        name = " ".join((self.name, *environment))
        return place.run(name, *self.verb.split(), *words, code=self.code, **environment)


def commands() -> dict[str, bool]:
    """Every command by its words, and whether it takes a plan."""
    return dict(_below(typer.main.get_command(app), ""))


def _below(command: object, name: str) -> Iterator[tuple[str, bool]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield name, any(parameter.name in {"plan", "plans"} for parameter in command.params)  # type: ignore[attr-defined]
        return
    for word, each in below.items():
        yield from _below(each, f"{name} {word}".strip())


def _good(verb: str, *words: str, code: int = 0) -> Case:
    return Case(verb=verb, words=words, code=code)


# What a migration takes, in its order. A reason given for a record holds secrets, too, for there is a name for all.
MAIN = (
    _good("validate", *PLAN),
    _good("preview", *PLAN),
    _good("preview", *PLAN, "--format", "markdown", "--out", "saved.markdown"),
    _good("preview", *PLAN, "--format", "json"),
    _good("run", *PLAN, "--output", "json", "--until", "follow", *YES),
    _good("verify", *PLAN),
    _good("approve", *PLAN, "over", "--because", "{v1} {v3} {v20}"),
    _good("cutover", *PLAN, *YES),
    _good("run", *PLAN, *YES),
    _good("rollback", *PLAN, *YES),
    *(_good("report", *PLAN, "--format", style) for style in ("html", "markdown", "json")),
    _good("cleanup", *PLAN, *YES),
    # The member waits for its step, and the fleet with it.
    _good("fleet run", FLEET, code=4),
    _good("fleet approve", FLEET, "--step", "mark", "--because", "it is {environ}"),
    _good("fleet run", FLEET, "--output", "json"),
)
# What comes between, before the step that MAIN names.
BETWEEN: dict[str, tuple[Case, ...]] = {
    "validate": (
        _good("schema"),
        _good("explain", "snapshot"),
        _good("explain", "PR0490"),
        *(_good("lint", *PLAN, "--format", style) for style in ("text", "json", "sarif", "github")),
        _good("render", *PLAN),
        _good("render", *PLAN, "--output", "json"),
        _good("render", *PLAN, "--diff", "other.yaml", "--diff-var-file", "values.yaml"),
        _good("preview", *PLAN, "--offline"),
        _good("preview", *PLAN, "--privileges"),
        _good("validate", *PLAN, "--output", "json"),
        _good("doctor", *PLAN),
        _good(
            "init",
            *("--source", "{source}", "--source-password", "file:source.password"),
            *("--target", "{target}", "--target-password", "file:target.password"),
            *("--inspect", "--no-input", "--out", "first.yaml"),
        ),
    ),
    "verify": (
        *(_good(verb, *PLAN) for verb in ("pause", "resume")),
        _good("throttle", *PLAN, "jobs=plan"),
        _good("status", *PLAN, "--drift"),
        _good("status", *PLAN, "--output", "json"),
        _good("state rebuild", *PLAN, *AGAIN, *YES),
        _good(
            "state mark",
            *PLAN,
            *AGAIN,
            "mark",
            "--as",
            "pending",
            "--because",
            "{v0} {v2} postgresql://a:{v9}@h/d",
            *YES,
        ),
        _good("state show", *PLAN, *AGAIN),
        _good("state history", *PLAN, *AGAIN),
        _good("status", *PLAN, *AGAIN),
        _good("report", *PLAN, *AGAIN),
    ),
    "cutover": (_good("cutover", *PLAN, "--rehearse"),),
    "fleet approve": (
        _good("fleet lint", FLEET),
        _good("fleet preview", FLEET),
        _good("fleet preview", FLEET, "--output", "json"),
        _good("fleet preview", FLEET, "--format", "markdown", "--out", "fleet.markdown"),
        *(_good("fleet status", FLEET, "--output", style) for style in ("text", "json")),
        *(_good("fleet report", FLEET, "--format", style) for style in ("html", "markdown", "json")),
    ),
    "cleanup": (
        _good("state show", *PLAN),
        _good("state history", *PLAN, "--output", "json"),
    ),
}
# What can't go well here, and which tests search what it says and leaves.
ELSEWHERE = {"state job": "faults/test_serendb.py: a job of SerenAI's cloud"}
# Its servers and secrets are its own.
DEMO = _good("demo", "--scale", "0.1")


def _bad(verb: str, *words: str) -> Case:
    return Case(verb=verb, words=words, code=None)


# With a plan of which something is wrong, so that they fail at a server or at AWS.
CONNECTING: dict[str, tuple[str, ...]] = {
    "validate": (),
    "preview": (),
    "run": YES,
    "verify": (),
    "cutover": YES,
    "rollback": YES,
    "cleanup": YES,
}
# So do these; the plan's commands that are left need neither, whatever is wrong.
CONNECTING_TOO: dict[str, tuple[str, ...]] = {
    "doctor": (),
    "state rebuild": YES,
    "cutover": ("--rehearse",),
}
FLEET_VERBS = ("lint", "preview", "run", "status", "approve", "report")
# Words that are wrong in a way of the command's own.
WRONG_WORDS = (
    _bad(
        "init", "--no-input", "--source", "{dsn}", "--target", "{dsn}", "--source-password", "purse:{given}"
    ),
    _bad(
        "init",
        "--no-input",
        "--source",
        "{dsn}",
        "--target",
        "host=h sslpassword={given}",
        "--out",
        "no.yaml",
    ),
    _bad("init", "--no-input", "--source", "{dsn}", "--target", "{dsn}", "--inspect", "--out", "no/no.yaml"),
    _bad("lint", *PLAN, "odd.yaml", "--format", "json"),
    _bad("lint", "odd.yaml", "--format", "sarif"),
    _bad("render", *PLAN, "--var", "v0={given}"),
    _bad("render", *PLAN, "--diff", "odd.yaml"),
    _bad("preview", "odd.yaml", "--offline"),
    _bad("run", *PLAN, *YES, "--only", "{v0}"),
    _bad("run", *PLAN, *YES, "--expect", "broken.json"),
    _bad("approve", *PLAN, "{v1}", "--because", "{v2}"),
    _bad("throttle", *PLAN, "jobs={v2}"),
    _bad("throttle", *PLAN, "{v4}=3"),
    _bad("report", *PLAN, "--out", "no/{v3}"),
    _bad("explain", "PR9999"),
    _bad("schema", "--out", "no/schema.json"),
    _bad("demo", "--source-bin", "no/servers"),
    _bad("state mark", *PLAN, "{v1}", "--as", "done", "--because", "{v5}", *YES),
    _bad("state job", *PLAN, "{v1}", "--id", "{v2}", "--because", "{v5}"),
    *(
        _bad(verb, *PLAN, "--state", "broken.json")
        for verb in ("status", "report", "state show", "state history", "approve")
    ),
    *(
        _bad(verb, *PLAN, "--state", "postgresql://a:{given}@127.0.0.1:1/x?sslmode=disable")
        for verb in ("status", "report", "state show", "state history", "approve", "pause", "resume")
    ),
    *(_bad(f"fleet {verb}", fleet) for verb in FLEET_VERBS for fleet in ("odd-fleet.yaml", "odd.yaml")),
    _bad("fleet approve", FLEET, "--step", "none", "--because", "{environ}"),
    _bad("fleet approve", FLEET, "no-fish"),
    _bad("fleet report", FLEET, "--out", "no/fleet.html"),
    _bad("status", *PLAN, "--state", "postgresql://127.0.0.1:1/x?pass%77ord={given}"),
    _bad("status", *PLAN, "--state", "s3://no-such-bucket/{given}"),
)


def with_a_bad_plan() -> tuple[Case, ...]:
    """Every command that takes a plan, with one in which passwords stand."""
    more = {
        "explain": (),
        "throttle": ("jobs=1",),
        "state mark": ("over", "--as", "done", "--because", "{v0}"),
        "state job": ("over", "--none", "--because", "{v0}"),
    }
    return tuple(_bad(verb, "odd.yaml", *more.get(verb, ())) for verb, plan in commands().items() if plan)


def all_good() -> tuple[Case, ...]:
    """Every case that ends well."""
    return (*MAIN, *(case for between in BETWEEN.values() for case in between), DEMO)


def all_bad() -> tuple[Case, ...]:
    """A case that fails for every command, whatever is wrong."""
    return (*WRONG_WORDS, *with_a_bad_plan())
