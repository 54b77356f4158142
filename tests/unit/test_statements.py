"""Splitting a script as psql does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner.statements import StatementsUnfit, split


def texts(script: str) -> list[str]:
    return [statement.text for statement in split(script)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' ; SELECT 'it''s;'", ["SELECT ';'", "SELECT 'it''s;'"]),
        (r"SELECT E'\';' ; SELECT 1", [r"SELECT E'\';'", "SELECT 1"]),
        ("SELECT U&'d\\0061;'; SELECT 1", ["SELECT U&'d\\0061;'", "SELECT 1"]),
        ('CREATE TABLE "a;""b" (); SELECT 1', ['CREATE TABLE "a;""b" ()', "SELECT 1"]),
        ("SELECT $$a;b$$; SELECT $x$ $$;$x $x$", ["SELECT $$a;b$$", "SELECT $x$ $$;$x $x$"]),
        ("SELECT a$b$c; SELECT 1", ["SELECT a$b$c", "SELECT 1"]),
        ("SELECT $1; SELECT 2", ["SELECT $1", "SELECT 2"]),
        ("-- a; b\nSELECT 1 -- c;\n; -- d", ["-- a; b\nSELECT 1 -- c;"]),
        ("/* a /* ; */ ; */ SELECT 1; /* ; */", ["/* a /* ; */ ; */ SELECT 1"]),
        ("SELECT 1 /* it's */; SELECT 2", ["SELECT 1 /* it's */", "SELECT 2"]),
        ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3",
         ["CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", "SELECT 3"]),
        ("CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END; SELECT 3",
         ["CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END",
          "SELECT 3"]),
        ("BEGIN; SELECT 1; END; SELECT 2", ["BEGIN", "SELECT 1", "END", "SELECT 2"]),
        (";;  ; ", []),
        ("", []),
    ],
)  # fmt: skip
def test_a_script_falls_into_its_statements(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


@pytest.mark.parametrize(
    ("script", "line", "reason"),
    [
        ("SELECT 1;\n\\i other.sql", 2, r"\i is a command of psql"),
        ("SELECT 1 \\gexec", 1, r"\gexec is a command of psql"),
        ("\n\nCOPY t FROM STDIN;\n1\n", 3, "no rows here"),
        ("SELECT 'open", 1, "' is not closed"),
        ('SELECT 1;\n SELECT "open', 2, '" is not closed'),
        ("SELECT $a$ $b$", 1, "$a$ is not closed"),
        ("/* /* */", 1, "/* is not closed"),
    ],
)
def test_what_no_server_takes_is_told_with_its_line(script: str, line: int, reason: str) -> None:
    with pytest.raises(StatementsUnfit) as refused:
        split(script)
    assert refused.value.line == line
    assert reason in refused.value.reason


def test_lines_words_and_what_they_mean_are_known() -> None:
    first, second, third, fourth = split(
        "-- x\nDROP TABLE a;\n\nPREPARE p AS SELECT 1; COMMIT;\nWITH d AS (DELETE FROM a) SELECT 1"
    )
    assert (first.line, second.line, fourth.line) == (2, 4, 5)
    assert first.destructive
    assert fourth.destructive
    assert not second.controls_transaction
    assert third.controls_transaction


@given(st.text(alphabet="ab1;'\"$\\/*-() \n_é", max_size=60))
def test_nothing_is_lost_or_made_up(script: str) -> None:
    try:
        found = split(script)
    except StatementsUnfit:
        return
    place = 0
    for statement in found:
        place = script.index(statement.text, place) + len(statement.text)
