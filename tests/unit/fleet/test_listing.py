"""The list that AWS gave is kept: the fleet's members change only when somebody asks anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.aws.discovery import Listed
from planrunner.errors import StateUnfit
from planrunner.fleet.folder import folder_of
from planrunner.fleet.listing import Known, Wish, wish_of
from planrunner.fleet.load import examine_fleet
from planrunner.loading.source import read
from tests.unit.fleet.conftest import HEAD, Examine

if TYPE_CHECKING:
    from pathlib import Path

    from planrunner.fleet.load import Examined

BODY = """\
inventory:
  rds:
    region: us-east-1
    tags: {migrate: shops}
    vars: {host: endpoint, database: "tag:database"}
"""
ONE = Listed(
    attributes={"identifier": "shop-1", "endpoint": "one.example.com"}, tags={"database": "one", "size": "1"}
)
TWO = Listed(attributes={"identifier": "shop-2", "endpoint": "two.example.com"}, tags={"database": "two"})


def with_aws(examine: Examine, tmp_path: Path, *found: Listed, body: str = BODY) -> Examined:
    examine(body)
    return examine_fleet(tmp_path / "fleet.yaml", {}, lambda _: Known(listed=found))


def test_who_is_listed_is_a_member_with_what_aws_tells(examine: Examine, tmp_path: Path) -> None:
    found = with_aws(examine, tmp_path, ONE, TWO)

    assert found.problems == ()
    assert [(member.name, dict(member.variables)) for member in found.fleet.members] == [
        ("shop-1", {"host": "one.example.com", "database": "one"}),
        ("shop-2", {"host": "two.example.com", "database": "two"}),
    ]


def test_before_anybody_asked_nobody_is_known(examine: Examine) -> None:
    found = examine(BODY)

    assert (found.problems, found.fleet.members) == ((), ())


def test_what_an_instance_lacks_is_told(examine: Examine, tmp_path: Path) -> None:
    bare = Listed(attributes={"identifier": "bare", "endpoint": "x"})
    found = with_aws(examine, tmp_path, bare)

    assert "bare has no tag:database" in found.problems[0].message
    assert (found.problems[0].line, found.problems[0].where) == (9, "inventory.rds.vars.database")


def test_a_row_that_is_written_out_counts_more(examine: Examine, tmp_path: Path) -> None:
    body = f"{BODY}  rows:\n    - {{name: bare, host: here, database: three}}\n"
    bare = Listed(attributes={"identifier": "bare", "endpoint": "x"})
    found = with_aws(examine, tmp_path, bare, body=body)

    assert found.problems == ()
    assert found.fleet.members[0].variables["host"] == "here"


def test_a_list_is_kept_for_its_wish_alone(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(HEAD + BODY)
    folder = folder_of(tmp_path / "fleet.yaml")
    wish = wish_of(read(tmp_path / "fleet.yaml"))
    assert wish is not None
    assert Known.kept(folder, wish) is None
    folder.make()
    Known(listed=(ONE, TWO)).keep(folder, wish)

    assert Known.kept(folder, wish) == Known(listed=(ONE, TWO))
    with pytest.raises(StateUnfit, match="other tags"):
        Known.kept(folder, Wish(access=wish.access, tags={"migrate": "others"}))


def test_what_has_changed_since_is_told() -> None:
    moved = Listed(
        attributes={"identifier": "shop-1", "endpoint": "new.example.com"}, tags={"database": "one"}
    )
    three = Listed(attributes={"identifier": "shop-3"})

    assert Known(listed=(moved, three)).changes_from(Known(listed=(ONE, TWO))) == (
        "new: shop-3",
        "gone: shop-2",
        "changed: shop-1: endpoint one.example.com → new.example.com, tag:size 1 → none",
    )
