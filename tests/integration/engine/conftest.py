"""A real server with two databases, and a bench to run tiny plans on it."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from planrunner.state.memory import MemoryStore


def _loaded(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    description = importlib.util.spec_from_file_location(name, path)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module
    description.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny() -> Any:
    return _loaded("tiny")


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=900) as running:
        with psycopg.connect(running.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE DATABASE old")
            session.execute("CREATE DATABASE new")
        yield running


@pytest.fixture
def bench(tiny: Any, server: PostgresServer, tmp_path: Path) -> Any:
    source, target = server.dsn("postgres", "old"), server.dsn("postgres", "new")
    return tiny.Bench(tmp_path, source, target, server.password, MemoryStore())
