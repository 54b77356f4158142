"""The demo: a busy shop on a stand-in RDS moves to a newer PostgreSQL, run as a user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import conninfo

from planrunner.errors import StepFailed, UsageError
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.rds_api import CREDENTIALS, RdsApi
from planrunner.sandbox.rds_like import Database, ReplicationRights, prepare_source, prepare_target
from planrunner.sandbox.rds_limits import RDS_ADMIN
from planrunner.sandbox.servers import PostgresServer
from planrunner.sandbox.shop import load_shop
from planrunner.sandbox.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLAN = "demo.yaml"
_PLANS = (
    Path(__file__).with_name(PLAN),  # as a wheel carries it
    Path(__file__).parents[2] / "plans" / PLAN,  # in a checkout
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the demo plays on: two servers, the shop's databases, the RDS API, and the plan's folder."""

    source: PostgresServer
    target: PostgresServer
    source_database: Database
    target_database: Database
    api: RdsApi
    folder: Path

    @property
    def plan(self) -> Path:
        """The plan file, copied into the demo's folder."""
        return self.folder / PLAN

    def variables(self) -> list[str]:
        """The plan's variables as command-line options."""
        values = {
            "source_host": "127.0.0.1",
            "source_port": self.source.port,
            "target_host": "127.0.0.1",
            "target_port": self.target.port,
            "rds_endpoint": self.api.endpoint_url,
        }
        return [word for name, value in values.items() for word in ("--var", f"{name}={value}")]

    def environment(self) -> Mapping[str, str]:
        """What the plan's secret references and boto3 find in the environment."""
        passwords = {
            "SOURCE_PASSWORD": self.source_database.password,
            "TARGET_PASSWORD": self.target_database.password,
        }
        return {**os.environ, **CREDENTIALS, **passwords}

    def command(self, verb: str, *options: str) -> list[str]:
        """``planrunner VERB`` for the demo's plan."""
        return [sys.executable, "-m", "planrunner", verb, str(self.plan), *options, *self.variables()]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the demo ended. ``report`` is planrunner's own, ``steps`` its lines; counts are the writer's."""

    report: Mapping[str, Any]
    acknowledged_writes: int
    lost_writes: int
    folder: Path
    kept: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The one object that ``demo --output json`` prints."""
        differing = [v for v in self.report["verification"] if not v["equal"]]
        return {
            "result": self.report["result"],
            "tables": self.report["tables"],
            "rows": self.report["rows"],
            "bytes": self.report["bytes"],
            "verified": bool(self.report["verified"]),
            "differences": len(differing),
            "write_pause_ms": self.report["write_pause_ms"],
            "acknowledged_writes": self.acknowledged_writes,
            "lost_writes": self.lost_writes,
            "steps": [{k: s[k] for k in ("id", "uses", "status", "seconds")} for s in self.report["steps"]],
            "report": self.report["report_file"],
            "state": self.report["state_file"],
            **({"kept": dict(self.kept)} if self.kept else {}),
        }


@contextmanager
def stage(
    source_bin: Path | None, target_bin: Path | None, *, scale: float, leave_files: bool = False
) -> Iterator[Stage]:
    """Build the stage, and take its servers down at the end; ``leave_files`` lets plan, state and report stay then.

    A stage that can't be built leaves nothing.
    """
    folder = Path(tempfile.mkdtemp(prefix="planrunner-demo-"))
    with ExitStack() as files, ExitStack() as stack:
        files.callback(shutil.rmtree, folder, ignore_errors=True)
        source = stack.enter_context(PostgresServer(source_bin or wheel_bin(16), superuser=RDS_ADMIN))
        target = stack.enter_context(PostgresServer(target_bin or wheel_bin(18)))
        databases = prepare_source(source), prepare_target(target)
        load_shop(databases[0].superuser_dsn, scale=scale)
        stack.enter_context(ReplicationRights(source))
        api = stack.enter_context(RdsApi(source))
        plan = next((path for path in _PLANS if path.exists()), None)
        if plan is None:
            raise UsageError("the demo's plan is not installed", remedy="Install planrunner again.")
        shutil.copyfile(plan, folder / PLAN)
        if leave_files:
            files.pop_all()
        yield Stage(
            source=source,
            target=target,
            source_database=databases[0],
            target_database=databases[1],
            api=api,
            folder=folder,
        )


def run_demo(
    *, shown: bool, keep: bool, source_bin: Path | None, target_bin: Path | None, scale: float
) -> Outcome:
    """Migrate the shop while a writer writes to it, and count what was lost.

    ``shown`` lets the run's own lines through to the terminal. StepFailed when the run ends with an error;
    the servers are removed even then, the plan's folder with state and report stays.
    """
    with stage(source_bin, target_bin, scale=scale, leave_files=True) as scene:
        dsn = conninfo.make_conninfo(
            scene.source_database.application_dsn or "", password=scene.source_database.password
        )
        with Writer(dsn) as writer:
            ran = subprocess.run(
                scene.command("run", "--yes", "--no-input"),
                env=dict(scene.environment()),
                stdin=subprocess.DEVNULL,
                stdout=None if shown else subprocess.DEVNULL,
                check=False,
            )
            counts = writer.stop()
            if ran.returncode != 0:
                raise StepFailed(
                    f"the demo's run ended with exit code {ran.returncode}",
                    remedy=f"State, events and report are in {scene.folder}",
                )
            lost = writer.check(scene.target_database.superuser_dsn)
        report = json.loads((scene.folder / f"{PLAN.removesuffix('.yaml')}.yaml.report.json").read_text())
        return Outcome(
            report=report,
            acknowledged_writes=counts.acknowledged,
            lost_writes=len(lost),
            folder=scene.folder,
            kept=_keep(scene) if keep else {},
        )


def _keep(scene: Stage) -> Mapping[str, str]:
    scene.source.keep()
    scene.target.keep()
    return {"source": scene.source_database.superuser_dsn, "target": scene.target_database.superuser_dsn}
