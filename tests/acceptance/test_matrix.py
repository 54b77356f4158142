"""The whole job between versions: five pairs always, every other pair with ``--matrix`` (`make test-matrix`)."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import conninfo

from planrunner.sandbox.demo import stage
from planrunner.sandbox.writer import Writer
from tests.acceptance.helpers import contents, run, slots, state_of
from tests.servers import MAJORS, server_bin

SCALE = 0.1
FEWEST_WRITES = 50
PAIRS = ((13, 18), (15, 15), (15, 18), (17, 18), (18, 18))
REST = tuple((a, b) for a in MAJORS for b in MAJORS if a <= b and (a, b) not in PAIRS)


def migrate(source: int, target: int) -> None:
    with stage(server_bin(source), server_bin(target), scale=SCALE) as scene:
        assert (scene.source.version[0], scene.target.version[0]) == (source, target)
        database = scene.source_database
        application = conninfo.make_conninfo(database.application_dsn or "", password=database.password)
        with Writer(application, threads=1, rate=60) as writer:
            moved = run(scene, "--yes", "--no-input")
            assert moved.returncode == 0, moved.stdout[-3000:] + moved.stderr
            counts = writer.stop()
        # It wrote until the fence stopped it, so it wrote during the copy and the cutover too.
        assert counts.fenced == 1
        assert counts.acknowledged > FEWEST_WRITES
        theirs = scene.target_database.superuser_dsn
        assert writer.check(theirs) == []
        assert contents(database.superuser_dsn) == contents(theirs)
        assert slots(database.superuser_dsn) == []
        assert {step["status"] for step in state_of(scene)["steps"].values()} == {"done"}
        with psycopg.connect(theirs) as session:
            assert session.execute("SELECT count(*) FROM pg_subscription").fetchone() == (0,)
            assert session.execute("SELECT nextval('public.order_numbers') > 100000").fetchone() == (True,)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_busy_shop_moves_whole(source: int, target: int) -> None:
    migrate(source, target)


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize(("source", "target"), REST)
def test_a_busy_shop_moves_whole_between_every_other_pair(source: int, target: int) -> None:
    migrate(source, target)
