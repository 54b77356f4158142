"""The frozen values that travel between the parts: plan, endpoints, statuses, findings, secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from planrunner.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from planrunner.flow import Notification

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


class Side(Enum):
    """Where something is done."""

    SOURCE = "source"
    TARGET = "target"
    REPLICA = "replica"
    AWS = "aws"
    SEREN = "seren"
    LOCAL = "local"


class StepStatus(Enum):
    """How far a step is."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    DONE = "done"
    SKIPPED = "skipped"


class Approval(Enum):
    """Whether a step may begin by itself."""

    AUTO = "auto"
    MANUAL = "manual"


class Mark(Enum):
    """The verdict of one check."""

    PASS = "pass"  # noqa: S105  # a verdict
    WARN = "warn"
    FAIL = "fail"


class Secret:
    """A value that no representation and no serialiser shows; only ``reveal`` does."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not serialised")


class SecretKind(Enum):
    """Where a secret is kept."""

    ENV = "env"
    FILE = "file"
    COMMAND = "command"
    AWS_SECRETSMANAGER = "aws_secretsmanager"
    AWS_SSM = "aws_ssm"


@dataclass(frozen=True, kw_only=True)
class AssumedRole:
    """An IAM role whose rights are used; ``endpoint_url`` is STS's, where it is not AWS's."""

    arn: str
    external_id: str | None = None
    session_name: str = "planrunner"
    endpoint_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class SecretRef:
    """A reference to a secret: ``locator`` is a variable's name, a path, a command line or an ARN.

    ``key`` picks one member of a JSON secret (``password`` in the form RDS writes). ``access`` says how AWS is
    reached, where the reference says so itself.
    """

    kind: SecretKind
    locator: str
    key: str | None = None
    access: RdsInstance | None = None

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.locator}"


@dataclass(frozen=True, kw_only=True)
class RdsInstance:
    """The RDS instance behind an endpoint and how its API is reached."""

    instance: str
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    assume_role: AssumedRole | None = None


@dataclass(frozen=True, kw_only=True)
class DialAddress:
    """One side as the other's subscription dials it, where that differs from ours.

    ``sslrootcert`` lies on the host that dials, or is ``system``.
    """

    host: str | None = None
    port: int | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReplicationLogin:
    """The login by which the other side's subscription dials, where the plan names one that is there already."""

    login: str
    password: SecretRef


class RunOn(Enum):
    """Where copy and stream are made: by SerenAI's cloud, or by this process."""

    CLOUD = "cloud"
    LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Seren:
    """SerenAI's cloud behind a target at SerenDB. ``base`` is its API of jobs, ``console`` that of projects.

    ``project`` and ``branch`` are the target's in the console. ``run_on`` is the plan's own word, ``place`` where it
    is run in fact and ``why``: decided where the environment and the command line are known.
    """

    api_key: SecretRef | None = None
    base: str = "https://replicate.serendb.com"
    console: str = "https://console.serendb.com"
    project: str | None = None
    branch: str | None = None
    poll: float = 5.0
    run_on: RunOn | None = None
    place: RunOn = RunOn.LOCAL
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One database: its DSN (never with a password in it) and how to become its user.

    ``self_signed`` is the plan's ``allow_self_signed_certs``: encryption without proof of identity. ``ca`` is
    ``rds``, ``system`` or the absolute path of a file of certificates, ``ca_fingerprint`` that file's SHA-256.
    ``authorize_ingress`` lets planrunner open the instance's security group: True for the addresses that are found,
    or the ranges to let in.
    ``replication`` is who the other side's subscription logs in as, where the plan names somebody.
    ``seren`` is there for a target at SerenDB.
    """

    side: Side
    dsn: str
    password: SecretRef | None = None
    rds_iam: bool = False
    rds: RdsInstance | None = None
    seen_from_other: DialAddress | None = None
    self_signed: bool = False
    ca: str | None = None
    ca_fingerprint: str | None = None
    authorize_ingress: bool | tuple[str, ...] = False
    replication: ReplicationLogin | None = None
    seren: Seren | None = None

    @property
    def ingress_ranges(self) -> tuple[str, ...]:
        """The ranges that the plan itself names as those from which the instance is dialled."""
        return self.authorize_ingress if isinstance(self.authorize_ingress, tuple) else ()


@dataclass(frozen=True, kw_only=True)
class DaskPool:
    """A scheduler of dask.distributed whose workers do the bulk work; the files are absolute paths.

    What is None is left to Dask's own configuration.
    """

    address: str
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """One entry of ``steps``: ``options`` is its ``with``, rendered and valid for its schema.

    ``recorded`` are its fields with ``***`` for sensitive values, as the state keeps their digests; None where the
    plan did not come from a file.
    """

    id: str
    uses: str
    options: Mapping[str, Json] = field(default_factory=dict)
    approval: Approval = Approval.AUTO
    digest: str = ""
    recorded: Mapping[str, Json] | None = None
    flow: Flow = field(default_factory=Flow)

    def fields(self) -> Mapping[str, Json]:
        """What decides the step's work, by the name of the key in the plan."""
        options = {f"with.{name}": value for name, value in self.options.items()}
        return {"uses": self.uses, **options, **{hook.name: str(hook) for hook in self.flow.hooks}}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A loaded plan. ``digest`` is over its canonical form: templates resolved, references only.

    ``steps`` stand in the order in which they run. ``replica`` is the standby that a copy may be read from, ``pool`` does
    the bulk work; None: threads of this process.
    """

    name: str
    path: Path
    digest: str
    source: Endpoint
    target: Endpoint
    steps: tuple[StepSpec, ...]
    notifications: tuple[Notification, ...] = ()
    replica: Endpoint | None = None
    pool: DaskPool | None = None

    def step(self, step_id: str) -> StepSpec | None:
        """The step of that id, if there is one."""
        return next((spec for spec in self.steps if spec.id == step_id), None)

    def needs(self, spec: StepSpec) -> tuple[str, ...]:
        """The ids of the steps that ``spec`` needs: those it names, else the one before it."""
        if spec.flow.needs is not None:
            return spec.flow.needs
        place = self.steps.index(spec)
        return (self.steps[place - 1].id,) if place else ()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a plan file: where it stands, what was found, what to do.

    ``line`` and ``column`` count from 1; ``excerpt`` is the source line. ``code`` names the rule, such as PR012.
    """

    path: str
    line: int
    column: int
    where: str
    message: str
    remedy: str | None = None
    excerpt: str | None = None
    code: str = ""

    def render(self) -> str:
        """The problem as people read it: position, text, source line with a caret, remedy."""
        place = f"  {self.where}" if self.where else ""
        lines = [f"{self.path}:{self.line}:{self.column}{place}  {self.message}"]
        if self.excerpt is not None:
            lines += [f"    {self.excerpt}", "    " + " " * (self.column - 1) + "^"]
        if self.remedy is not None:
            lines.append(f"    {self.remedy}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Fix:
    """What mends a finding and can harm nothing: statements for one side, each in a transaction of its own.

    For ``Side.LOCAL`` a statement is a command line of this machine, quoted as a shell reads it.
    """

    where: Side
    statements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a preflight: its check and section, verdict, text, and what mends it.

    ``code`` names the check, such as PR0601, and ``why`` tells why it matters. ``mended_by`` names the kind of step
    (``uses``) that will mend it by itself, ``fix`` is what ``--fix`` may do. ``ignored`` is the plan's reason to
    live with it: the mark stays, but it stops nothing.
    """

    section: str
    mark: Mark
    text: str
    remedy: str | None = None
    mended_by: str | None = None
    code: str = ""
    why: str | None = None
    fix: Fix | None = None
    ignored: str | None = None

    @property
    def page(self) -> str | None:
        """Its check's page in the documentation; None where it has no code."""
        return f"docs/reference/checks/{self.code}.md" if self.code else None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure that a preview tells beforehand, between ``low`` and ``high`` in ``unit``.

    ``formula`` says how it came about; both bounds are None where ``reason`` says why nothing is known.
    """

    name: str
    unit: str
    low: float | None = None
    high: float | None = None
    text: str = ""
    formula: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """What a step's work keeps beside its actions: its records, markers and sessions; nothing of the user's.

    ``text`` is the line that a preview shows, ``statements`` are shapes as ``planrunner.shapes`` reads them.
    ``taken_back``: it stays until cleanup takes it back.
    """

    text: str
    where: Side
    statements: tuple[str, ...]
    taken_back: bool = False


class Belongs(Enum):
    """Whose something on a server is."""

    THIS_PLAN = "this plan"
    ANOTHER_PLAN = "another plan"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Residue:
    """Something that a migration made or changed and a server still shows.

    ``harm`` says what it does if it stays, ``statement`` how to remove it; ``harmful``: it should not stay.
    ``kept``: it stays on purpose.
    """

    side: Side
    kind: str
    name: str
    ours: Belongs
    harm: str
    statement: str
    harmful: bool = False
    kept: bool = False

    def __str__(self) -> str:
        whose = "" if self.ours is Belongs.THIS_PLAN else f" ({self.ours.value})"
        lead = "kept on purpose: " if self.kept else ""
        return f"{self.side.value}: {self.kind} {self.name}{whose}: {lead}{self.harm}. To remove it: {self.statement}"
