"""The rules: their codes, how much each matters, and why it is one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache

from planrunner.loading import codes


class Severity(Enum):
    """How much a finding matters: an error keeps the plan from loading, a warning fails with --strict."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule; ``why`` tells a person who meets it for the first time what it is about."""

    code: str
    name: str
    severity: Severity
    why: str


UNATTENDED_CUTOVER = "PR201"
NO_WAY_BACK = "PR202"
UNVERIFIED_SERVER = "PR203"
NO_PREFLIGHT = "PR204"
LATE_PREPARATION = "PR205"
CUTOVER_WITHOUT_SYNC = "PR206"
STEP_TWICE = "PR207"
UNUSED_VARIABLE = "PR208"
UNKNOWN_IN_ENVIRONMENT = "PR209"
UNBOUNDED_WAL = "PR210"
REBOOT_UNASKED = "PR211"
WITHOUT_EFFECT = "PR212"
DISABLE_WITHOUT_REASON = "PR301"
DISABLE_WITHOUT_MATCH = "PR302"
DISABLE_OF_NO_WARNING = "PR303"

_ERRORS = (
    (codes.UNREADABLE, "unreadable", "The file can't be read, or is not YAML."),
    (codes.NOT_OURS, "yaml-feature", "Tags, anchors, aliases, merge keys, keys that are no text and second documents"
     " are refused: a reviewer would have to know what they become."),
    (codes.REPEATED_KEY, "repeated-key", "A key is given twice; other readers would silently let the last one win."),
    (codes.UNKNOWN_KEY, "unknown-key", "Nothing reads this key here; it is misspelt or in the wrong place."),
    (codes.MISSING_KEY, "missing-key", "A key that must be there is not."),
    (codes.WRONG_TYPE, "wrong-type", "A value is of another type than the key asks for."),
    (codes.NOT_A_CHOICE, "not-a-choice", "A value is none of those that the key allows."),
    (codes.WRONG_FORM, "wrong-form", "A text is not written as the key asks for: a duration, a size, a name."),
    (codes.OUT_OF_BOUNDS, "out-of-bounds", "A value is too small, too large, too long, empty or given twice."),
    (codes.INCONSISTENT, "inconsistent", "Parts of the plan do not fit together."),
    (codes.REPEATED_ID, "repeated-id", "Two steps have one id; approvals and the state file address steps by it."),
    (codes.DSN, "dsn", "A connection string is not one that libpq would take, or means something else to it."),
    (codes.PASSWORD, "password-in-plan", "A password stands in the plan; it would be in git, in reviews and in logs."),
    (codes.REFERENCE, "secret-reference", "A reference to a secret is ambiguous or leads out of the plan's folder."),
    (codes.SAME_DATABASE, "same-database", "Source and target are one database."),
    (codes.ORDER, "order", "A step runs before one whose work it builds on."),
    (codes.CONTRADICTION, "contradiction", "Two options exclude one another."),
    (codes.OVERLAY, "overlay", "An overlay's base can't be used, or what is laid over it does not fit on it."),
    (codes.FLEET, "fleet", "Members, waves and plans of a fleet do not fit together."),
    (codes.TEMPLATE, "template", "A template can't be resolved, or uses what templates may not."),
    (codes.VARIABLE, "variable", "A variable has no value, or one that its declaration does not allow."),
    (DISABLE_WITHOUT_REASON, "disable-without-reason", "A rule is disabled and nobody says why."),
    (DISABLE_OF_NO_WARNING, "disable-of-no-warning", "A disable names no rule, or one that can't be disabled."),
)  # fmt: skip
_WARNINGS = (
    (UNATTENDED_CUTOVER, "unattended-cutover", "The cutover begins by itself as soon as the steps before it are done,"
     " at whatever hour that is."),
    (UNVERIFIED_SERVER, "unverified-server", "The connection does not prove which server answers, so that whoever"
     " sits in between can read the password and every row."),
    (NO_PREFLIGHT, "no-preflight", "Without validate before the copy, what stops the migration is found after hours"
     " of copying."),
    (LATE_PREPARATION, "late-preparation", "The copy needs logical replication and its privileges; preparing them"
     " after it is too late."),
    (CUTOVER_WITHOUT_SYNC, "cutover-without-sync", "A cutover needs a target that follows; without sync what was"
     " written since the copy is missing."),
    (STEP_TWICE, "step-twice", "A second step of this kind finds everything done, or asks for the contrary of the"
     " first."),
    (UNUSED_VARIABLE, "unused-variable", "Nothing uses this variable; a template may name another by mistake."),
    (UNKNOWN_IN_ENVIRONMENT, "unknown-variable-in-environment", "The environment sets a variable that the plan does"
     " not declare; it has no effect."),
    (WITHOUT_EFFECT, "without-effect", "This option does nothing together with the others."),
    (DISABLE_WITHOUT_MATCH, "disable-without-match", "Nothing is found here any more; the comment can go."),
)  # fmt: skip
_NOTES = (
    (NO_WAY_BACK, "no-way-back", "Without reverse: true what is written after the cutover is lost when going back."),
    (UNBOUNDED_WAL, "unbounded-wal", "Without max_wal_retained a target that stands still fills the source's disk."),
    (REBOOT_UNASKED, "reboot-unasked", "The instance is rebooted without asking anybody."),
)  # fmt: skip


@cache
def rules() -> dict[str, Rule]:
    """Every rule by its code, sorted."""
    groups = ((Severity.ERROR, _ERRORS), (Severity.WARNING, _WARNINGS), (Severity.NOTE, _NOTES))
    found = [
        Rule(code=code, name=name, severity=severity, why=why)
        for severity, group in groups
        for code, name, why in group
    ]
    return {rule.code: rule for rule in sorted(found, key=lambda rule: rule.code)}
