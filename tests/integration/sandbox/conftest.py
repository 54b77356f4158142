from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.sandbox.rds_api import CREDENTIALS, RdsApi
from planrunner.sandbox.rds_like import Database, ReplicationRights, prepare_source, prepare_target
from planrunner.sandbox.servers import PostgresServer, wheel_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

DRIVER = Path(__file__).with_name("driver.py")


def _load_driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sandbox_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def driver() -> ModuleType:
    return _load_driver()


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=900) as server, ReplicationRights(server):
        yield server


@pytest.fixture(scope="session")
def shop(server: PostgresServer) -> Database:
    return prepare_source(server)


@pytest.fixture(scope="session")
def target() -> Iterator[Database]:
    """Where the ledger is: a server of its own, which no reboot of the source touches."""
    with PostgresServer(wheel_bin(16), max_life=900) as server:
        yield prepare_target(server)


@pytest.fixture(scope="session")
def base(server: PostgresServer) -> dict[str, str]:
    """The settings of a server that no group has changed yet."""
    return server.settings


@pytest.fixture
def api(server: PostgresServer, base: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[RdsApi]:
    """A fresh instance over the shared server, which begins at wal_level=replica."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server.restart(base, without=set(server.settings) - set(base))
    with RdsApi(server, phase=0.1) as api:
        yield api


@pytest.fixture
def facts(api: RdsApi, shop: Database, target: Database, driver: ModuleType) -> Callable[..., Any]:
    """What enable_logical is given; keywords are the step's options."""

    def make(**options: object) -> Any:
        return driver.Facts(
            dsn=shop.dsn,
            password=shop.password,
            endpoint_url=api.endpoint_url,
            options=options,
            target_dsn=target.dsn,
            target_password=target.password,
        )

    return make


@pytest.fixture
def wal_level(server: PostgresServer) -> Callable[[], str]:
    def ask() -> str:
        with psycopg.connect(server.superuser_dsn) as session:
            row = session.execute("SHOW wal_level").fetchone()
        assert row is not None
        return str(row[0])

    return ask
