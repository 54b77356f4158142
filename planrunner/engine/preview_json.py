"""A preview as JSON, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from planrunner.engine.lasting import lasting, lasting_json
from planrunner.engine.preview_text import status_of, verdict
from planrunner.engine.verdicts import of_step
from planrunner.ignoring import finding_json
from planrunner.masking import masked

if TYPE_CHECKING:
    from planrunner.engine.preflight import Checked
    from planrunner.engine.preview import Preview, PreviewStep
    from planrunner.model import Json
    from planrunner.step import Action


def to_json(preview: Preview) -> str:
    """The whole preview as indented JSON with a final newline."""
    tree: Json = {
        "plan": preview.plan,
        "path": preview.path,
        "plan_id": preview.plan_id,
        "offline": preview.offline,
        "at": preview.at.isoformat(timespec="seconds"),
        "source": preview.source,
        "target": preview.target,
        "changes": preview.changes,
        "failures": preview.failures,
        "lasting": lasting_json(lasting(preview)),
        "steps": [step_json(step) for step in preview.steps],
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def step_json(step: PreviewStep) -> dict[str, Json]:
    """One step with its actions: everything a reviewer sees."""
    return {
        "id": step.spec.id,
        "uses": step.spec.uses,
        "status": status_of(step),
        "verdict": of_step(step).value,
        "begun": step.begun,
        "waits_for_approval": step.waits_for_approval,
        "problem": step.problem,
        "skipped": step.skipped,
        "condition": step.condition,
        "findings": _findings(step.checked) if step.checked else [],
        "estimates": [asdict(estimate) for estimate in step.estimates],
        "satisfied": list(step.satisfied),
        "upkeep": [
            {"where": kept.where.value, "text": kept.text, "statements": list(kept.statements)}
            for kept in step.upkeep
        ],
        "actions": [action_json(action) for action in step.actions],
    }


def action_json(action: Action) -> Json:
    """One action: everything a reviewer sees."""
    return {
        "name": action.name,
        "verdict": verdict(action),
        "summary": action.summary,
        "where": action.where.value,
        "statements": list(map(masked, action.statements)),
        "locks": list(action.locks),
        "needs": list(action.needs),
        "undo": action.undo,
        "lasting": action.lasting,
        "asks": action.asks,
        "blocked": action.blocked,
        "adjusts": action.adjusts,
        "destructive": action.destructive,
        "restarts": action.restarts,
        "observable": action.observable,
        "decided_at_run_time": action.decided_at_run_time,
        "recovery": action.recovery,
    }


def _findings(checked: Checked) -> Json:
    return [
        {**finding_json(finding), "mended_by_step": mender}
        for finding, mender in zip(checked.findings, checked.mended, strict=True)
    ]
