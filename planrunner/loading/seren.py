"""What a plan says of SerenAI's cloud, and what of the plan does not go together with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from planrunner import units
from planrunner.loading import codes, dsn
from planrunner.loading.hosts import at_serendb
from planrunner.loading.order import entries
from planrunner.loading.places import at
from planrunner.model import RunOn, Seren
from planrunner.references import reference
from planrunner.webhook import refused_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_KEYS: Keys = ("connections", "target", "seren")
_LOCAL = "Write run_on: local: then planrunner makes copy and stream itself, with all that it can."
# What a job of the cloud's can't be told, of the filters and of the other options of a snapshot.
_FILTERS = ("schema_only", "rows", "since")
_OPTIONS = ("without_replica_identity", "unlogged", "large_objects")


def cloud(connection: Mapping[str, Any], folder: Path) -> Seren | None:
    """SerenAI's cloud as the target's connection has it; None for a target that is elsewhere."""
    host = dsn.parse(connection["dsn"]).place[0]
    given = connection.get("seren")
    if given is None:
        return Seren() if at_serendb(host) else None
    told = {name: given[name] for name in ("base", "console", "project", "branch") if name in given}
    return Seren(
        **told,
        api_key=reference(given["api_key"]["secret"], folder) if "api_key" in given else None,
        run_on=RunOn(given["run_on"]) if "run_on" in given else None,
        poll=units.seconds(given.get("poll", "5s")),
    )


def seren_faults(document: Document, tree: Json, strings: Mapping[str, dsn.Dsn]) -> Iterator[Problem]:
    """A block for another target, addresses that no key is sent to, and what a job there can't be told."""
    given = at(tree, _KEYS)
    if not isinstance(given, dict):
        return
    target = strings.get("target")
    if target is not None and not target.faults and not at_serendb(target.place[0]):
        text = f"the target is at {target.place[0]}, and SerenAI's cloud copies to *.serendb.com alone"
        yield document.problem(_KEYS, text, "Take the block out.", codes.INCONSISTENT)
    for name in ("base", "console"):
        url = given.get(name)
        reason = refused_url(url) if isinstance(url, str) else None
        if reason is not None:
            yield document.problem((*_KEYS, name), reason, "Write https://HOST.", codes.WRONG_FORM)
    if "branch" in given and "project" not in given:
        remedy = "Write the project's id beside it."
        yield document.problem((*_KEYS, "branch"), "a branch without its project", remedy, codes.INCONSISTENT)
    if given.get("run_on") == RunOn.CLOUD.value:
        yield from _beyond(document, tree)


def _beyond(document: Document, tree: Json) -> Iterator[Problem]:
    """What of the steps only planrunner itself can do."""
    for index, step in enumerate(entries(tree)):
        keys: Keys = ("steps", index)
        given = cast("Json", step)
        if step.get("uses") == "cutover_verify":
            text = "the cutover needs planrunner's own stream; with run_on: cloud it is the cloud's"
            yield document.problem((*keys, "uses"), text, _LOCAL, codes.CONTRADICTION)
        if step.get("uses") == "sync" and at(given, ("with", "mode")) == "poll":
            text = "mode: poll is planrunner's own; with run_on: cloud a job follows by logical decoding"
            yield document.problem((*keys, "with", "mode"), text, _LOCAL, codes.CONTRADICTION)
        if step.get("uses") != "snapshot":
            continue
        for place in untold(at(given, ("with",))):
            text = f"with run_on: cloud nobody heeds {'.'.join(place)}: the cloud's jobs know no such thing"
            yield document.problem((*keys, "with", *place), text, _LOCAL, codes.CONTRADICTION)


def untold(options: object) -> Iterator[tuple[str, ...]]:
    """The options of a snapshot that change what arrives and that a job can't be told, as paths below ``with``."""
    given = cast("Mapping[str, Json]", options) if isinstance(options, dict) else {}
    yield from ((name,) for name in _OPTIONS if given.get(name, "refuse") != "refuse")
    filters = given.get("filters")
    if isinstance(filters, dict):
        yield from (("filters", name) for name in _FILTERS if filters.get(name))
