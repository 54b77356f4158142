"""What a fleet's file may say, and that everything wrong with it is told at once, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from planrunner.fleet.load import examine_fleet
from tests.unit.fleet.conftest import PLAN, Examine

ROWS = """\
inventory:
  rows:
    - {name: shop-1, database: one}
    - {name: shop-2, database: two}
    - {name: big, database: three}
"""


def told(examined: object) -> list[str]:
    """Each problem with its place, in order."""
    problems = examined.problems  # type: ignore[attr-defined]
    return [f"{Path(p.path).name}:{p.line}:{p.column} {p.message}" for p in problems]


def test_without_waves_all_members_are_one(examine: Examine) -> None:
    fleet = examine(ROWS).fleet

    assert [(wave.name, wave.members, wave.manual) for wave in fleet.waves] == [
        ("all", ("shop-1", "shop-2", "big"), False)
    ]
    assert (fleet.max_parallel, fleet.stop_after) == (4, 1)
    assert fleet.members[0].variables == {"database": "one"}
    assert fleet.members[0].steps == ("copy", "follow")


def test_the_canary_goes_first_and_is_in_no_other_wave(examine: Examine) -> None:
    found = examine(
        f"{ROWS}canary: [shop-2]\nwaves:\n  - {{name: shops, members: ['shop-*']}}\n  - {{name: rest}}\n"
    )

    assert told(found) == []
    assert [(wave.name, wave.members) for wave in found.fleet.waves] == [
        ("canary", ("shop-2",)),
        ("shops", ("shop-1",)),
        ("rest", ("big",)),
    ]
    assert [member.name for member in found.fleet.members] == ["shop-2", "shop-1", "big"]


def test_a_member_is_in_one_wave_and_every_member_is_in_one(examine: Examine) -> None:
    found = examine(
        f"{ROWS}waves:\n  - {{name: first, members: ['shop-*']}}\n  - {{name: second, members: [shop-1, shop-9]}}\n"
    )

    assert told(found) == [
        "fleet.yaml:10:1 big: in no wave",
        "fleet.yaml:12:30 shop-1 is in the waves first and second",
        'fleet.yaml:12:38 no member is called "shop-9"',
    ]
    assert found.problems[2].remedy == 'Did you mean "shop-2"? Members: shop-1, shop-2, big.'


def test_waves_have_names_of_their_own(examine: Examine) -> None:
    found = examine(
        f"{ROWS}waves:\n  - {{name: one, members: [big]}}\n  - {{name: one}}\n  - {{name: canary}}\n"
    )

    assert told(found) == [
        'fleet.yaml:12:12 a second wave is called "one"',
        "fleet.yaml:13:5 a second wave without members; the first has all that are left",
        "fleet.yaml:13:12 canary is the name of the wave of the canary",
    ]


def test_a_later_override_counts_more_than_an_earlier_one_and_than_the_row(examine: Examine) -> None:
    found = examine(
        f"vars: {{jobs: 1}}\n{ROWS}overrides:\n  - {{members: ['*'], vars: {{jobs: 2}}}}\n"
        "  - {members: [big], vars: {jobs: 3}, plan: big.yaml}\n",
        big_yaml="extends: shop.yaml\nmetadata: {name: big}\n",
    )

    assert told(found) == []
    jobs = {member.name: (member.variables["jobs"], member.plan.name) for member in found.fleet.members}
    assert jobs == {"shop-1": ("2", "shop.yaml"), "shop-2": ("2", "shop.yaml"), "big": ("3", "big.yaml")}


def test_a_plan_that_declares_the_variable_member_gets_its_name(examine: Examine) -> None:
    plan = PLAN.replace("vars:\n", "vars:\n  member: {type: string}\n")
    found = examine(ROWS, shop_yaml=plan)

    assert told(found) == []
    assert [member.variables["member"] for member in found.fleet.members] == ["shop-1", "shop-2", "big"]


def test_a_value_is_complained_of_where_it_stands(examine: Examine) -> None:
    found = examine(
        "inventory:\n  csv: shops.csv\n  rows:\n    - {name: big, database: three, jobs: many, size: 3}\n",
        shops_csv="name,database,jobs\nshop-1,one,4\nshop-2,two,few\nshop-3,three_,\n",
    )

    assert told(found) == [
        'fleet.yaml:8:42 expected integer, got "many"',
        'fleet.yaml:8:48 the plan does not declare the variable "size"',
        'shops.csv:3:12 expected integer, got "few"',
    ]


def test_a_variable_without_a_value_is_told_with_the_member_that_lacks_it(examine: Examine) -> None:
    found = examine("inventory:\n  rows:\n    - {name: shop-1, database: one}\n    - {name: shop-2}\n")

    assert told(found) == ['shop.yaml:6:3 the variable "database" has no value (member shop-2)']


def test_what_is_wrong_with_the_template_is_told_once(examine: Examine) -> None:
    found = examine(ROWS, shop_yaml=PLAN.replace("uses: sync", "uses: snyc"))

    assert len(found.problems) == 1
    assert "(member" not in found.problems[0].message


def test_two_members_with_one_target_are_refused(examine: Examine) -> None:
    found = examine(
        "inventory:\n  rows:\n    - {name: shop-1, database: one}\n    - {name: shop-2, database: one, host: b}\n"
    )

    assert told(found) == [
        "fleet.yaml:8:14 shop-2 and shop-1 have the same target, database one on new.example.com:5432"
    ]


def test_member_names_are_unique_and_fit_for_files(examine: Examine) -> None:
    found = examine(
        "inventory:\n  csv: shops.csv\n  rows:\n    - {name: shop-1, database: a}\n    - {name: ../x, database: b}\n",
        shops_csv="name,database\nSHOP-1,c\n a b ,d\n",
    )

    assert [line.partition(" ")[0] for line in told(found)] == [
        "fleet.yaml:9:14",
        "shops.csv:2:1",
        "shops.csv:3:1",
    ]
    assert "a second member is called" in told(found)[1]
    assert "expected a name of letters" in told(found)[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,name\na,b\n", "two columns are called"),
        ("host\nx\n", "the first line names no column called name"),
        ("name,Big Host\na,b\n", "expected a name of lower-case letters"),
        ("name,database\na\n", "1 cells, but the first line names 2 columns"),
        ("name,database\n", "there is no row below the first line"),
        ("", "the first line names no column called name"),
    ],
)
def test_a_csv_file_says_what_its_columns_are(examine: Examine, text: str, message: str) -> None:
    found = examine("inventory: {csv: shops.csv}\n", shops_csv=text)

    assert any(message in line for line in told(found)), told(found)
    assert all(line.startswith("shops.csv:") for line in told(found))


def test_a_sensitive_value_does_not_belong_into_an_inventory(examine: Examine) -> None:
    plan = PLAN.replace("vars:\n", "vars:\n  token: {type: string, sensitive: true}\n")
    found = examine(
        "inventory:\n  rows:\n    - {name: shop-1, database: one, token: hunter2-hunter2}\n", shop_yaml=plan
    )

    assert 'the variable "token" is sensitive' in told(found)[0]
    assert "hunter2" not in "\n".join(problem.render() for problem in found.problems)


def test_keys_are_told_by_the_fleets_own_schema(examine: Examine) -> None:
    found = examine(f"{ROWS}wave: []\nmax_parallel: 0\n")

    assert told(found) == [
        'fleet.yaml:10:1 unknown key "wave"',
        "fleet.yaml:11:15 expected 1 to 64, got 0",
    ]
    assert found.problems[0].remedy is not None
    assert found.problems[0].remedy.startswith('Did you mean "waves"?')


def test_a_plan_lies_beside_the_fleet_or_below_it(examine: Examine) -> None:
    found = examine(
        f"{ROWS}overrides:\n  - {{members: [big], plan: ../big.yaml}}\n  - {{members: [big], plan: bog.yaml}}\n"
    )

    assert told(found) == [
        "fleet.yaml:11:28 the plan is not in the fleet's folder",
        'fleet.yaml:12:28 there is no file "bog.yaml"',
    ]


def test_what_is_no_yaml_is_told_as_in_a_plan(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("plan: [")

    assert len(examine_fleet(tmp_path / "fleet.yaml", {}, lambda _: None).problems) == 1


def test_the_example_lints() -> None:
    found = examine_fleet(Path(__file__).parents[3] / "plans/fleet/fleet.yaml", {}, lambda _: None)

    assert told(found) == []
    assert [wave.name for wave in found.fleet.waves] == ["canary", "europe", "america", "rest"]
