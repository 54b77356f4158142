"""Who does the bulk work: the plan's word, and addresses that are refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from planrunner.cli.opening import open_plan
from planrunner.errors import PoolLost, PoolUnfit, UsageError, WorkerLost
from planrunner.loading import load
from planrunner.loading.pool import refused_address
from planrunner.model import DaskPool
from planrunner.pools.choosing import pool_of
from planrunner.pools.cluster import Cluster
from planrunner.pools.likeness import digest, introduction
from planrunner.replication.threads import Threads

if TYPE_CHECKING:
    from pathlib import Path

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: orders}
connections:
  source: {dsn: postgresql://me@old.example.com/app}
  target: {dsn: postgresql://me@new.example.com/app}
steps:
  - {id: check, uses: validate}
"""


def written(folder: Path, pool: str = "") -> Path:
    path = folder / "plan.yaml"
    path.write_text(PLAN + pool)
    return path


def test_a_plan_without_a_pool_has_threads(tmp_path: Path) -> None:
    plan = load(written(tmp_path))
    assert plan.pool is None
    assert isinstance(pool_of(plan.pool), Threads)
    assert not pool_of(plan.pool).away


def test_an_address_alone_leaves_the_files_to_dask(tmp_path: Path) -> None:
    plan = load(written(tmp_path, 'pool: {dask: "tls://scheduler:8786"}\n'))
    assert plan.pool == DaskPool(address="tls://scheduler:8786")
    assert pool_of(plan.pool).away


def test_files_of_a_pool_are_found_from_the_plans_folder(tmp_path: Path) -> None:
    files = "ca: pool/ca.pem, cert: pool/me.pem, key: /etc/pool/me.key"
    plan = load(written(tmp_path, f'pool: {{dask: {{address: "tls://s:1", {files}}}}}\n'))
    assert plan.pool == DaskPool(
        address="tls://s:1",
        ca=str(tmp_path / "pool/ca.pem"),
        cert=str(tmp_path / "pool/me.pem"),
        key="/etc/pool/me.key",
    )


def test_a_pool_may_come_from_a_variable_and_is_no_edit_of_a_step(tmp_path: Path) -> None:
    without = load(written(tmp_path, "vars: {where: {default: 'tls://a:1'}}\n"))
    found = load(
        written(tmp_path, "vars: {where: {default: 'tls://a:1'}}\npool: {dask: '{{ vars.where }}'}\n")
    )
    assert found.pool == DaskPool(address="tls://a:1")
    assert found.digest == without.digest


@pytest.mark.parametrize(
    "address",
    [
        "tls://scheduler:8786",
        "tls://10.0.0.7:1",
        "tls://[fd00::7]:8786",
        "tcp://127.0.0.1:8786",
        "tcp://127.9.9.9:1",
        "tcp://localhost:65535",
        "tcp://[::1]:8786",
    ],
)
def test_an_address_that_can_be_dialled(address: str) -> None:
    assert refused_address(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "scheduler:8786",
        "tls://scheduler",
        "tls://:8786",
        "tls://scheduler:0",
        "tls://scheduler:65536",
        "http://scheduler:8786",
        "tls://a@b:1",
        "tls://scheduler:8786/",
        "",
        "tls://a b:1",
    ],
)
def test_an_address_that_is_none(address: str) -> None:
    refused = refused_address(address)
    assert refused is not None
    assert "expected tls://HOST:PORT" in refused[0]


@pytest.mark.parametrize("address", ["tcp://scheduler:8786", "tcp://10.0.0.7:8786", "tcp://localhost.evil:1"])
def test_no_line_beyond_this_machine_is_open(address: str) -> None:
    refused = refused_address(address)
    assert refused is not None
    assert "reads and changes what the workers run" in refused[0]


def test_the_command_line_says_another_and_keeps_the_plans_certificates(tmp_path: Path) -> None:
    path = written(tmp_path, 'pool: {dask: {address: "tls://s:1", ca: ca.pem}}\n')
    opened = open_plan(path, None, None, None).with_pool("tls://other:2")
    assert opened.plan.pool == DaskPool(address="tls://other:2", ca=str(tmp_path / "ca.pem"))
    with pytest.raises(UsageError, match="--pool: expected tls://HOST:PORT"):
        open_plan(path, None, None, None).with_pool("other:2")


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"dask\.distributed is not installed") as told:
        Cluster(DaskPool(address="tls://s:1")).open()
    assert "planrunner[dask]" in (told.value.remedy or "")


class KilledWorker(Exception):
    """Called as Dask's own."""


def test_what_an_error_of_a_worker_means() -> None:
    pool = Cluster(DaskPool(address="tls://s:1"))
    own = UsageError("the task's own")
    assert pool.failure(own) is own
    assert isinstance(pool.failure(KilledWorker()), WorkerLost)
    told = pool.failure(OSError(24, "Too many open files"))
    assert isinstance(told, PoolUnfit)
    assert "OSError" in told.message
    assert not isinstance(told, PoolLost)
    pool.close()


def test_a_program_is_told_by_its_text() -> None:
    version, code = introduction()
    assert version
    assert code == digest() == Cluster(DaskPool(address="tls://s:1")).code
    assert len(code) == 16
