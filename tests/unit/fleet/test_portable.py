"""What of a fleet can be done on any machine: what its file must say, what travels with a member, and what never does."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from planrunner.cli.fleet_crew import task_of, with_pool
from planrunner.errors import UsageError
from planrunner.fleet.folder import folder_of
from planrunner.fleet.homes import place
from planrunner.model import DaskPool
from tests.unit.fleet.conftest import PLAN
from tests.unit.fleet.test_load import ROWS, told

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.fleet.conftest import Examine

POOL = "pool: {dask: 'tls://scheduler:8786'}\n"
STEPS = """\
  - id: extras
    uses: sql
    with: {file: sql/extras.sql}
    before:
      - {command: [./hold.sh, rules.txt, elsewhere.txt], env: {TOKEN: {secret: {env: TOKEN}}}}
"""


def test_a_pool_needs_states_that_its_workers_reach(examine: Examine) -> None:
    found = examine(f"{ROWS}{POOL}")

    assert told(found) == [
        "fleet.yaml:10:1 the members' states lie in a folder of this machine, which no worker reaches"
    ]
    assert found.problems[0].remedy == "Add state: target, or state: s3://BUCKET/PREFIX/."


@pytest.mark.parametrize("state", ["fleet.state.json", "s3://bucket/no-prefix", "s3://", "postgresql://h/d"])
def test_a_state_is_where_every_machine_reaches_each_members_own(examine: Examine, state: str) -> None:
    found = examine(f"{ROWS}state: {state}\n")

    assert told(found) == [f'fleet.yaml:10:8 expected target or s3://BUCKET/PREFIX/, got "{state}"']
    assert found.problems[0].remedy == "For example: s3://states/shops/"


def test_an_address_beyond_this_machine_is_encrypted_as_a_plans(examine: Examine) -> None:
    found = examine(f"{ROWS}state: target\npool: {{dask: 'tcp://scheduler:8786'}}\n")

    assert told(found) == [
        'fleet.yaml:11:14 "tcp://scheduler:8786": whoever listens on the way reads and changes what the workers run'
    ]


def test_a_pool_and_a_state_are_known_and_each_member_has_a_place_of_its_own(
    examine: Examine, tmp_path: Path
) -> None:
    fleet = examine(
        f"{ROWS}state: s3://states/shops/\npool: {{dask: {{address: 'tls://s:1', ca: pool/ca.pem}}}}\n"
    ).fleet
    folder = folder_of(fleet.path)

    assert fleet.pool == DaskPool(address="tls://s:1", ca=str(tmp_path / "pool/ca.pem"))
    assert place(fleet, folder, "shop-1") == "s3://states/shops/shop-1.state.json"
    assert place(examine(f"{ROWS}state: target\n").fleet, folder, "shop-1") == "target"
    assert place(examine(ROWS).fleet, folder, "shop-1") == str(folder.state("shop-1"))
    folder.make()
    folder.keep(fleet)
    kept = folder.kept(fleet.path)
    assert kept is not None
    assert (kept.state, kept.members) == (fleet.state, fleet.members)


def test_the_command_line_names_another_scheduler_for_a_fleet_that_can_have_one(examine: Examine) -> None:
    with pytest.raises(UsageError, match="--pool: the members' states lie in a folder of this machine"):
        with_pool(examine(ROWS).fleet, "tls://other:2")
    fleet = examine(f"{ROWS}state: target\n").fleet
    with pytest.raises(UsageError, match="--pool: expected tls://HOST:PORT"):
        with_pool(fleet, "other:2")
    assert with_pool(fleet, "tls://other:2").pool == DaskPool(address="tls://other:2")


def test_what_is_of_this_machine_alone_is_told_of_a_member_that_may_run_on_another(
    examine: Examine, tmp_path: Path
) -> None:
    (tmp_path / "look.sh").touch()
    plan = PLAN.replace(
        "new.example.com/{{ vars.database }}\n",
        "new.example.com/{{ vars.database }}\n    password: {secret: {file: target.password}}\n",
    ).replace(
        "/{{ vars.database }}\n  target",
        "/{{ vars.database }}\n    password: {secret: {command: [./look.sh]}}\n  target",
    )

    assert told(examine(ROWS, shop_yaml=plan + POOL)) == [], "here they are where they are looked for"
    assert told(examine(f"{ROWS}state: target\n", shop_yaml=plan + POOL)) == [
        'shop.yaml:11:35 "./look.sh" is a file beside the plan, which does not travel with a secret\'s command',
        "shop.yaml:14:31 the secret lies in a file of this machine, and the member may run on another",
        "shop.yaml:18:1 a member that asks a pool for workers waits for those that other members hold",
    ]


def test_a_task_takes_along_what_its_plan_refers_to_and_no_secret(examine: Examine, tmp_path: Path) -> None:
    secret = "hunter2-of-the-target"
    for name in ("sql/extras.sql", "hold.sh", "rules.txt", "other.sql", "ca.pem", "target.password"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            "SELECT 1;" if name.endswith(".sql") else secret if "password" in name else name
        )
    (tmp_path / "hold.sh").chmod(0o755)
    base = PLAN.replace(
        "new.example.com/{{ vars.database }}\n",
        "new.example.com/{{ vars.database }}\n"
        "    ca: ca.pem\n    password: {secret: {command: 'cat /etc/target.password'}}\n",
    )
    found = examine(
        f"{ROWS}state: target\noverrides: [{{members: [big], plan: big.yaml}}]\n",
        shop_yaml=base + STEPS,
        big_yaml="extends: shop.yaml\nmetadata: {name: big}\n",
    )

    assert told(found) == []
    files = {member.name: member.files for member in found.fleet.members}
    assert files["shop-1"] == ("ca.pem", "hold.sh", "rules.txt", "shop.yaml", "sql/extras.sql")
    assert files["big"] == ("big.yaml", *files["shop-1"])
    task = task_of(found.fleet, found.fleet.members[0], folder_of(found.fleet.path), ("--yes",), "code")
    text = pickle.dumps(task)
    assert b"hold.sh" in text
    assert secret.encode() not in text
    assert [oct(file.mode) for file in task.files if file.name == "hold.sh"] == ["0o700"]
