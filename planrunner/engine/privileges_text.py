"""What a plan needs, written as text, JSON and Markdown."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING

from planrunner.aws.policy import OPTIONAL
from planrunner.engine.markdown_safe import code, fenced, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.engine.privileges import Needed
    from planrunner.model import Json
    from planrunner.postgres.grant_script import Line

_NO_SQL = "-- nothing: a session is all it takes"
_NO_IAM = "no call to AWS is made"
_OPTIONAL = (
    f"{OPTIONAL} can be left out: without it the preview does not tell how long a reboot takes and how far the storage"
    " lasts"
)


def to_text(needed: Needed) -> str:
    """Three parts that can be copied out: policy, script of the source, script of the target."""
    return "\n".join(_text(needed)) + "\n"


def to_json(needed: Needed) -> str:
    """The same as one JSON object."""
    tree: Json = {
        "plan": needed.plan,
        "offline": needed.offline,
        "iam_policy": needed.iam,
        "optional": [OPTIONAL] if _has_optional(needed) else [],
        "source": [{"statement": line.statement, "why": line.why} for line in needed.source],
        "target": [{"statement": line.statement, "why": line.why} for line in needed.target],
        "remarks": list(needed.remarks),
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def to_markdown(needed: Needed) -> str:
    """The same for a pull request."""
    return "\n\n".join(_markdown(needed)) + "\n"


def script(lines: Sequence[Line]) -> str:
    """The statements of a side, each group under the need that it meets."""
    if not lines:
        return _NO_SQL
    shown: list[str] = []
    for why, group in groupby(lines, key=lambda line: line.why):
        shown += [f"-- {why}", *(line.statement for line in group)]
    return "\n".join(shown)


def _text(needed: Needed) -> Iterator[str]:
    yield f"-- what plan {needed.plan} needs, and no more"
    if needed.offline:
        yield "-- from the plan alone: … stands for what only the servers tell"
    yield "\n-- IAM policy of the identity that runs it"
    yield json.dumps(needed.iam, indent=2) if needed.iam else f"-- {_NO_IAM}"
    if _has_optional(needed):
        yield f"-- {_OPTIONAL}"
    yield "\n-- run on the source, as the master user or a superuser"
    yield script(needed.source)
    yield "\n-- run on the target, as an administrator"
    yield script(needed.target)
    yield from (f"\n-- not granted here: {remark}" for remark in needed.remarks)


def _has_optional(needed: Needed) -> bool:
    return needed.iam is not None and OPTIONAL in json.dumps(needed.iam)


def _markdown(needed: Needed) -> Iterator[str]:
    yield f"## What plan {code(needed.plan)} needs, and no more"
    if needed.offline:
        yield "From the plan alone: `…` stands for what only the servers tell."
    yield "### IAM policy"
    yield fenced(json.dumps(needed.iam, indent=2), "json") if needed.iam else text(_NO_IAM)
    if _has_optional(needed):
        yield text(_OPTIONAL)
    yield "### On the source"
    yield fenced(script(needed.source), "sql")
    yield "### On the target"
    yield fenced(script(needed.target), "sql")
    if needed.remarks:
        yield "\n".join(f"- not granted here: {text(remark)}" for remark in needed.remarks)
