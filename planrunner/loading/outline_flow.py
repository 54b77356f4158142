"""The part of a step's entry, and of the plan, that says how a run goes: order, conditions, retries, hooks, notices."""

from __future__ import annotations

from planrunner.flow import FailureClass, Occasion, OnFailure, Shape
from planrunner.loading.outline import DURATION, SECRET, STEP_ID, Schema, mapping, text


def _duration(title: str, description: str, example: str, default: str | None = None) -> Schema:
    schema = {
        "type": "string",
        "title": title,
        "description": description,
        "pattern": DURATION,
        "examples": [example],
    }
    return schema if default is None else {**schema, "default": default}


COMMAND: Schema = {
    "type": "array",
    "title": "Command",
    "description": "The program and its arguments, each a text of its own. It runs in the plan's folder; no shell is"
    " involved.",
    "items": {"type": "string"},
    "minItems": 1,
    "examples": [["./pause-cron.sh", "orders"]],
}
_ENVIRONMENT: Schema = {
    "type": "object",
    "title": "Environment",
    "description": "Variables that are set for the command, over those of planrunner itself: a text, or a secret by"
    " reference.",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {
        "type": ["string", "object"],
        "title": "Value",
        "description": "The variable's value.",
        "properties": {"secret": SECRET},
        "required": ["secret"],
        "additionalProperties": False,
        "examples": ["orders", {"secret": {"env": "CRON_TOKEN"}}],
    },
    "examples": [{"CRON_TOKEN": {"secret": {"env": "CRON_TOKEN"}}}],
}
_HOOK = mapping(
    "Hook",
    "One command. It is run once: what is on record as done is not run again by a resume.",
    {
        "command": COMMAND,
        "env": _ENVIRONMENT,
        "timeout": _duration(
            "Timeout", "How long it may take before it is ended and the step fails.", "30s", "5m"
        ),
        "repeatable": {
            "type": "boolean",
            "title": "Repeatable",
            "description": "Whether it may be run again when the run died while it was at work. Otherwise the next run"
            " asks.",
            "default": False,
            "examples": [True],
        },
    },
    required=["command"],
)


def _hooks(title: str, when: str) -> Schema:
    return {
        "type": "array",
        "title": title,
        "description": f"Commands that are run {when}, in this order. One that fails fails the step.",
        "items": _HOOK,
        "minItems": 1,
        "examples": [[{"command": ["./pause-cron.sh", "orders"]}]],
    }


_CLASSES = [kind.value for kind in FailureClass]
RETRIES = mapping(
    "Retries",
    "Which failures are tried again by themselves. Never an action that is destructive or can't be observed, and"
    " nothing of a cutover after its commit.",
    {
        "on": {
            "type": "array",
            "title": "On",
            "description": "Kinds of failure: connection (SQLSTATE 08, 57P01 to 57P03, a session that broke),"
            " serialization (40), deadlock (40P01), lock_timeout (55P03), resources (53), throttling (the cloud's API)."
            " Empty: none.",
            "items": {"type": "string", "enum": _CLASSES},
            "default": ["connection", "serialization", "deadlock", "lock_timeout", "throttling"],
            "examples": [["connection", "lock_timeout"]],
        },
        "attempts": {
            "type": "integer",
            "title": "Attempts",
            "description": "How often it is tried in all; 1 is never again. A cutover is tried once unless the plan says"
            " otherwise.",
            "minimum": 1,
            "maximum": 100,
            "default": 3,
            "examples": [5],
        },
        "wait": _duration(
            "Wait", "The first wait; each further one is twice as long, and a little random.", "2s", "1s"
        ),
        "max_wait": _duration("Longest wait", "No wait is longer.", "30s", "1m"),
    },
)
NEEDS: Schema = {
    "type": "array",
    "title": "Needs",
    "description": "The ids of the steps that must be done, or skipped, before this one. Without it a step needs the one"
    " above it; [] needs none.",
    "items": {"type": "string", "pattern": STEP_ID},
    "uniqueItems": True,
    "examples": [["copy", "check"]],
}
WHEN: Schema = {
    "type": ["string", "boolean"],
    "title": "When",
    "description": "An expression over vars.NAME, source.version and the like, and steps.ID.status; where it is false the"
    " step is skipped.",
    "examples": ["source.version < 16 and not source.is_rds"],
}
ON_FAILURE: Schema = {
    "type": "string",
    "title": "On failure",
    "description": "What follows when the step fails: stop; continue with the steps that do not need it, and end with"
    " exit code 1; or rollback, which takes away what this step and those it needs left on the servers, unless a"
    " cutover is committed.",
    "enum": [choice.value for choice in OnFailure],
    "default": "stop",
    "examples": ["continue"],
}


def step_keys() -> Schema:
    """The keys of a step's entry that say how it runs."""
    return {
        "needs": NEEDS,
        "when": WHEN,
        "timeout": _duration(
            "Timeout",
            "How long one attempt of the step may take, approvals not counted; then it is stopped as by a signal and has"
            " failed. The next run goes on.",
            "2h",
        ),
        "retries": RETRIES,
        "on_failure": ON_FAILURE,
        "before": _hooks("Before", "before the step's work"),
        "after": _hooks("After", "after the step's work"),
    }


_WEBHOOK = mapping(
    "Webhook",
    "A request by POST. The certificate is verified, redirects are not followed; it is tried three times.",
    {
        "url": {
            "type": ["string", "object"],
            "title": "URL",
            "description": "Where to post: a URL, or a secret by reference where the URL itself is one. https, or http on"
            " this machine.",
            "minLength": 1,
            "properties": {"secret": SECRET},
            "required": ["secret"],
            "additionalProperties": False,
            "examples": [{"secret": {"env": "SLACK_URL"}}],
        },
        "header": mapping(
            "Header",
            "A header whose value is a secret.",
            {
                "name": text("Name", "The header's name.", "Authorization", pattern="^[A-Za-z0-9-]+$"),
                "secret": SECRET,
            },
            required=["name", "secret"],
        ),
        "format": {
            "type": "string",
            "title": "Format",
            "description": "The body: json with every field, or slack with one text.",
            "enum": [shape.value for shape in Shape],
            "default": "json",
            "examples": ["slack"],
        },
    },
    required=["url"],
)
NOTIFICATIONS: Schema = {
    "type": "array",
    "title": "Notifications",
    "description": "Whom to tell how the run goes. One that can't be delivered is a warning; it fails nothing.",
    "items": mapping(
        "Notification",
        "One way to tell someone: by a command or by a webhook.",
        {
            "on": {
                "type": "array",
                "title": "On",
                "description": "What is told: of the run started, done, failed, waiting, interrupted; of its steps"
                " step_done, step_failed, step_skipped, retry, cutover (committed) and rollback.",
                "items": {"type": "string", "enum": [occasion.value for occasion in Occasion]},
                "minItems": 1,
                "examples": [["failed", "waiting", "done", "cutover"]],
            },
            "command": {**COMMAND, "examples": [["./page.sh"]]},
            "webhook": _WEBHOOK,
            "timeout": _duration("Timeout", "How long one try may take.", "5s", "10s"),
        },
        required=["on"],
    ),
    "minItems": 1,
    "examples": [[{"on": ["failed"], "command": ["./page.sh"]}]],
}
