"""Strict YAML: what the text means, where it stands, what is refused."""

import pytest

from planrunner.loading.document import Spot
from planrunner.loading.scalars import plain
from planrunner.loading.source import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:00", "22:00"),
        ("1:30:00", "1:30:00"),
        ("no", "no"),
        ("On", "On"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("+12", 12),
        ("-3", -3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("2024-01-02", "2024-01-02"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999", "9" * 200])
def test_numbers_that_can_not_be_kept_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        plain(text)


def test_quoted_scalars_are_text() -> None:
    assert parse("p", """["4", 'true', "null", |\n  5\n]""").problems
    assert parse("p", """["4", 'true', "null"]""").tree == ["4", "true", "null"]


def test_every_value_and_key_knows_its_place() -> None:
    document = parse("p", "a:\n  b: [1, {c: 2}]\n")

    assert document.values["a", "b", 1, "c"] == Spot(line=2, column=14)
    assert document.names["a", "b"] == Spot(line=2, column=3)
    assert document.problem(("a", "b", 1, "missing"), "x").column == 10


def test_reading_goes_on_after_a_fault_that_allows_it() -> None:
    document = parse("p", "a: 1\na: 2\nb: !t 3\nc: &x 4\nd: *x\ne: .nan\n1: 2\n")

    assert [p.line for p in document.problems] == [2, 3, 4, 5, 6, 7]
    assert document.tree == {"a": 1, "b": None, "c": 4, "d": None, "e": None}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 900_000,
        "{a: " * 200_000,
        "? " * 400_000,
        "- " * 400_000,
        "".join(" " * i + "a:\n" for i in range(1200)),
    ],
)
def test_deep_nesting_ends_in_a_problem(text: str) -> None:
    (problem,) = parse("p", text).problems

    assert "levels deep" in problem.message


def test_very_many_values_end_in_a_problem() -> None:
    (problem,) = parse("p", "- a\n" * 60_000).problems

    assert "50,000 values" in problem.message


def test_billion_laughs_are_refused() -> None:
    lines = ["a: &a [x, x]"] + [
        f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]

    document = parse("p", "\n".join(lines))

    assert document.problems
    assert document.tree["i"] == [None, None]  # type: ignore[index, call-overload]  # it is a mapping


def test_excerpts_keep_control_characters_from_the_terminal() -> None:
    (problem,) = parse("p", "a: \x1b[31mred").problems

    assert "\x1b" not in problem.render()
