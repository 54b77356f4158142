"""Statements with placeholders and remarks, and scripts taken apart."""

import pytest

from planrunner.model import Side
from planrunner.shapes import parted, read


@pytest.mark.parametrize(
    ("statement", "executed"),
    [
        ("DROP TABLE a", "DROP TABLE a;"),
        ("CREATE TABLE a (b int)", "CREATE TABLE a\n    (b int)"),
        ("COPY … FROM STDIN", 'COPY "a" FROM STDIN'),
        ("SELECT f('1', …)  -- on the target", "SELECT f('1', '2')"),
        ("COPY a FROM STDIN (FORMAT binary…)", "COPY a FROM STDIN (FORMAT binary)"),
    ],
)
def test_a_statement_is_its_shape(statement: str, executed: str) -> None:
    shape = read(statement)
    assert shape is not None
    assert shape.matches(executed)


@pytest.mark.parametrize(
    ("statement", "executed"),
    [
        ("DROP TABLE a", "DROP TABLE b"),
        ("DROP TABLE a", "DROP TABLE a; DROP TABLE b"),
        ("COPY … TO", "COPY a"),
    ],
)
def test_another_statement_is_not(statement: str, executed: str) -> None:
    shape = read(statement)
    assert shape is not None
    assert not shape.matches(executed)


def test_a_remark_tells_side_and_need_and_is_no_part_of_the_statement() -> None:
    shape = read("DROP TABLE a  -- on the source; if it is there")
    assert shape is not None
    assert (shape.text, shape.side, shape.sometimes, shape.dumped) == (
        "DROP TABLE a",
        Side.SOURCE,
        True,
        False,
    )
    dumped = read("CREATE TABLE …  -- as pg_dump words it")
    assert dumped is not None
    assert (dumped.side, dumped.sometimes, dumped.dumped) == (None, False, True)
    call = read("aws rds reboot-db-instance --db-instance-identifier a")
    assert call is not None
    assert call.side is Side.AWS


def test_a_remark_alone_executes_nothing() -> None:
    assert read("-- what follows is decided by a person") is None


def test_a_script_is_parted_at_its_own_semicolons_alone() -> None:
    script = """
    -- a comment; of no account
    CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$;
    CREATE FUNCTION g(a int) RETURNS int BEGIN ATOMIC SELECT CASE WHEN a > 1 THEN 1 ELSE 2 END; SELECT 2; END;
    COMMENT ON TABLE "a;b" IS 'it''s; so'; /* ; */ SELECT E'\\'; x'
    """
    assert [statement.split()[0] for statement in parted(script)] == ["CREATE", "CREATE", "COMMENT", "SELECT"]
