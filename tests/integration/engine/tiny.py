"""Tiny real steps that act on files, and how a plan of them is put together."""

import hashlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from planrunner.clock import SystemClock
from planrunner.engine.context import World
from planrunner.engine.events import Event, Journal
from planrunner.engine.setup import Setup
from planrunner.errors import DecisionNeeded, StepFailed, ToolFailed
from planrunner.model import (
    Approval,
    Belongs,
    Endpoint,
    Estimate,
    Finding,
    Mark,
    Plan,
    Residue,
    Secret,
    Side,
    StepSpec,
)
from planrunner.ports import StateStore
from planrunner.postgres.connection import Server
from planrunner.step import Action, Run, Step
from planrunner.verification import Verification, VerifyTerms


class Touch:
    """Wishes that the files it names exist; each missing one is an action."""

    uses = "touch"

    def actions(self, run: Run) -> Sequence[Action]:
        folder = Path(run.option("folder", ""))
        missing = [name for name in run.option("files", [""]) if not (folder / name).exists()]
        return [
            Action(
                name=name,
                summary=f"create {name}",
                where=Side.LOCAL,
                statements=(f"touch {name}",),
                asks="really?" if name in run.option("ask", [""]) else None,
                blocked="a person must do it" if name in run.option("blocked", [""]) else None,
                perform=lambda run, path=folder / name: _create(run, path),
            )
            for name in missing
        ]

    def progress(self, run: Run) -> Mapping[str, int]:
        return {"files": len(list(Path(run.option("folder", "")).glob("*")))}

    def leftovers(self, run: Run) -> Sequence[Action]:
        folder = Path(run.option("folder", ""))
        found = [name for name in run.option("files", [""]) if (folder / name).exists()]
        return [
            Action(
                name=f"remove {name}",
                summary=f"remove {name}",
                where=Side.LOCAL,
                perform=lambda _, path=folder / name: path.unlink(),
            )
            for name in found
        ]


def _create(run: Run, path: Path) -> None:
    if path.name == "refused":
        raise ToolFailed("the disk is full", remedy="Make room.")
    if path.name == "signal":
        path.touch()
        os.kill(os.getpid(), signal.SIGTERM)
        return
    if path.name == "endless":
        os.kill(os.getpid(), signal.SIGINT)
        SystemClock().sleep(60)
    if path.name == "forgotten":
        return
    if path.name == "bug":
        raise ZeroDivisionError("hunter2")
    run.tell(f"creating {path.name}", {"rows": 1})
    path.write_text(path.read_text() + "again" if path.exists() else "once")


class Check:
    """Finds fault with files that are not there."""

    uses = "check"

    def actions(self, run: Run) -> Sequence[Action]:  # noqa: ARG002
        return ()

    def findings(self, run: Run) -> Sequence[Finding]:
        folder = Path(run.option("folder", ""))
        return [_finding(folder / name, run) for name in run.option("files", [""])]


def _finding(path: Path, run: Run) -> Finding:
    there = path.exists()
    mender = run.option("mended_by", "") or None
    return Finding(
        section="Files",
        mark=Mark.PASS if there else Mark.FAIL,
        text=f"{path.name} is {'there' if there else 'missing'}",
        remedy=None if there else f"touch {path.name}",
        mended_by=mender,
    )


class Hook:
    """Does something that leaves no trace it could look for."""

    uses = "hook"

    def actions(self, run: Run) -> Sequence[Action]:  # noqa: ARG002
        return [
            Action(name="call", summary="call the hook", where=Side.LOCAL, observable=False, perform=_called)
        ]


def _called(run: Run) -> None:
    with Path(run.option("log", "")).open("a") as log:
        log.write("called\n")
    if run.option("die", default=False):
        raise KeyboardInterrupt


class Refuse:
    """Says in advance what is wrong."""

    uses = "refuse"

    def actions(self, run: Run) -> Sequence[Action]:
        if run.option("how", "") == "decision":
            raise DecisionNeeded("left or right?", remedy="Say left.")
        raise StepFailed("no", remedy="Say yes.")

    def verify(self, run: Run, terms: VerifyTerms) -> Verification:  # noqa: ARG002
        return Verification(tables=(), other=("views differ",))


class Guess:
    """Says beforehand what it will come to."""

    uses = "guess"

    def actions(self, run: Run) -> Sequence[Action]:  # noqa: ARG002
        return ()

    def estimates(self, run: Run) -> Sequence[Estimate]:
        if run.option("fail", default=False):
            raise ToolFailed("the ruler broke")
        if log := run.option("log", ""):
            Path(log).write_text("asked")
        return (
            Estimate(name="copy_time", unit="s", low=1.0, high=2.5, text="1 s to 3 s", formula="data / rate"),
            Estimate(name="target_free", unit="B", reason="nobody knows"),
        )


class Litter:
    """Sees things that lie about; each is told as whose it is."""

    uses = "litter"

    def actions(self, run: Run) -> Sequence[Action]:  # noqa: ARG002
        return ()

    def residue(self, run: Run) -> Sequence[Residue]:
        return [
            Residue(
                side=Side.SOURCE,
                kind="slot",
                name=name,
                ours=Belongs(whose),
                harm="keeps WAL",
                statement=f"drop {name};",
                harmful=name != "kept",
                kept=name == "kept",
            )
            for name, whose in run.option("lies", {"": ""}).items()
        ]


STEPS: dict[str, Step] = {step.uses: step for step in (Touch(), Check(), Hook(), Refuse(), Guess(), Litter())}


def find(uses: str) -> Step:
    return STEPS[uses]


def spec(step_id: str, uses: str, *, manual: bool = False, **options: object) -> StepSpec:
    digest = hashlib.sha256(json.dumps([uses, options], sort_keys=True).encode()).hexdigest()
    approval = Approval.MANUAL if manual else Approval.AUTO
    return StepSpec(id=step_id, uses=uses, options=options, approval=approval, digest=digest)  # type: ignore[arg-type]


def plan_of(path: Path, source: str, target: str, *steps: StepSpec) -> Plan:
    return Plan(
        name="tiny",
        path=path,
        digest="".join(step.digest for step in steps),
        source=Endpoint(side=Side.SOURCE, dsn=source),
        target=Endpoint(side=Side.TARGET, dsn=target),
        steps=steps,
    )


class Passwords:
    """Opens a plan's servers with the one password that all of them take."""

    def __init__(self, password: str) -> None:
        self._password = password

    def __call__(self, plan: Plan, label: str) -> World:
        return World(
            source=self._server(plan.source, label), target=self._server(plan.target, label), cloud=None
        )

    def _server(self, endpoint: Endpoint, label: str) -> Server:
        return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret(self._password), label=label)


class Bench:
    """A place to run plans: two databases, a state store, and every event that was journalled."""

    def __init__(self, folder: Path, source: str, target: str, password: str, store: StateStore) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir(exist_ok=True)
        self.source, self.target = source, target
        self.password = password
        self.store = store
        self.events: list[Event] = []

    def touch(self, step_id: str, *files: str, manual: bool = False, **options: object) -> StepSpec:
        return spec(step_id, "touch", manual=manual, folder=str(self.files), files=list(files), **options)

    def check(self, step_id: str, *files: str, **options: object) -> StepSpec:
        return spec(step_id, "check", folder=str(self.files), files=list(files), **options)

    def plan(self, *steps: StepSpec) -> Plan:
        return plan_of(self.folder / "tiny.yaml", self.source, self.target, *steps)

    def setup(self, *steps: StepSpec, journal: Path | None = None) -> Setup:
        clock = SystemClock()
        return Setup(
            plan=self.plan(*steps),
            store=self.store,
            journal=Journal(journal, clock=clock, listeners=[self.events.append]),
            connect=Passwords(self.password),
            clock=clock,
            find=find,
        )

    def made(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted(self.files.iterdir())}

    def kinds(self) -> list[str]:
        return [event.kind.value for event in self.events]
