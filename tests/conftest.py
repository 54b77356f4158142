"""What runs only where it is asked for (pairs of versions, the soak), the figures of faults, servers in memory."""

from __future__ import annotations

import os

import pytest

from tests import memory
from tests.figures import Figures


def pytest_configure(config: pytest.Config) -> None:
    # A process of xdist's sends its reports to the one that prints them, and has its environment.
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Figures())
    # At length there are rows of a gigabyte, which belong on a disk.
    if not os.environ.get("PLANRUNNER_SOAK") and (folder := memory.begin()):
        config.add_cleanup(lambda: memory.end(folder))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="run every pair of source and target versions")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("PLANRUNNER_SOAK"):
        # Hundreds of lines about what is never meant to run here would hide the ones that matter.
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    if config.getoption("--matrix"):
        return
    for item in items:
        if item.get_closest_marker("matrix"):
            item.add_marker(pytest.mark.skip(reason="a pair outside the small matrix: `make test-matrix`"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    # Where it writes the groups is xdist's own affair; when it changes, tests that share a server go everywhere.
    if hasattr(session.config, "workerinput") and session.config.getoption("dist") == "loadgroup":
        lost = [
            i.nodeid for i in session.items if i.get_closest_marker("xdist_group") and "@" not in i.nodeid
        ]
        if lost:
            raise pytest.UsageError(f"pytest-xdist groups no tests any more, e.g. {lost[0]}")
