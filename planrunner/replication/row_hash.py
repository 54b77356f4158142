"""A number of 64 bits for a row, equal on both sides exactly when the row is: SQL that any server from 12 to 18 runs.

Each column is hashed by its value, in the cheapest form that tells any two values apart; the hashes are mixed by
exclusive or, and the mixture is hashed once more. Columns whose equality is looser than identity, or whose hash
depends on OIDs or collation, enter as their bytes or text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Column

# In each form {v} is the value, {seed} a number of the column's own, {small} one of 31 bits, {other} another.
# A 64-bit number is the seed: as the value its halves would be folded together, and -1 and 4294967295 collide.
_INTEGER = sql.SQL("hashint4extended({small}, {v}::int8)")
_TEXT = sql.SQL('hashtextextended({v} COLLATE "C", {seed})')
# Zero has a sign and NaN many forms, of which their text tells what matters.
_FLOAT = sql.SQL(
    "CASE WHEN {v}::float8 = '0'::float8 OR {v}::float8 = 'NaN'::float8"
    ' THEN hashtextextended({v}::float8::text COLLATE "C", {seed}) ELSE hashfloat8extended({v}::float8, {seed}) END'
)
# Microseconds as a float keep their upper 52 bits; the type's own hash folds both halves together, which tells
# neighbours apart. Neither fails at infinity, and both are cheaper than the bytes.
_TIMESTAMP = sql.SQL(
    "timestamp_hash_extended({v}, hashfloat8extended(tsrange_subdiff({v}, timestamp '2000-01-01'), {seed}))"
)
_TIMESTAMPTZ = sql.SQL(
    "timestamp_hash_extended(timezone(interval '0', {v}),"
    " hashfloat8extended(tstzrange_subdiff({v}, timestamptz '2000-01-01 00:00:00+00'), {seed}))"
)
_FORMS: Mapping[str, sql.SQL] = {
    "boolean": sql.SQL("CASE WHEN {v} THEN {seed} WHEN NOT {v} THEN {other} END"),
    "smallint": _INTEGER,
    "integer": _INTEGER,
    "bigint": _INTEGER,
    "oid": _INTEGER,
    "uuid": sql.SQL("uuid_hash_extended({v}, {seed})"),
    "date": sql.SQL("hashfloat8extended(daterange_subdiff({v}, date '2000-01-01'), {seed})"),
    "timestamp without time zone": _TIMESTAMP,
    "timestamp with time zone": _TIMESTAMPTZ,
    "real": _FLOAT,
    "double precision": _FLOAT,
    # Its own hash knows neither sign nor scale.
    "numeric": sql.SQL('hashtextextended({v}::text COLLATE "C", {seed})'),
    "text": _TEXT,
    "character varying": _TEXT,
    # Only an array of bytes has a hash that SQL may call, in every version.
    "bytea": sql.SQL("hash_array_extended(ARRAY[{v}], {seed})"),
    "money": sql.SQL("hash_array_extended(ARRAY[cash_send({v})], {seed})"),
    "interval": sql.SQL("hash_array_extended(ARRAY[interval_send({v})], {seed})"),
    "time without time zone": sql.SQL("hash_array_extended(ARRAY[time_send({v})], {seed})"),
    '"char"': sql.SQL("hash_array_extended(ARRAY[charsend({v})], {seed})"),
    # As text some versions write a byte above 127 as it is, others in octal.
    '"char"[]': sql.SQL("hash_array_extended(ARRAY[array_send({v})], {seed})"),
}
# Their own text is a name that several functions or operators may have.
_AMBIGUOUS = {
    "regproc": sql.SQL("regprocedure"),
    "regoper": sql.SQL("regoperator"),
    "regproc[]": sql.SQL("regprocedure[]"),
    "regoper[]": sql.SQL("regoperator[]"),
}
_WORD = (1 << 64) - 1


def row_hash(columns: Sequence[Column]) -> sql.Composed:
    """A number of 64 bits for the columns of one row; other values, other order or NULL elsewhere: another number.

    Hashed at the end, it is no sum over columns: values that two rows have exchanged would cancel out in a sum
    over rows.
    """
    # Rows of no columns are all alike.
    parts = [_hashed(column, number) for number, column in enumerate(columns)] or [sql.SQL("0").format()]
    return sql.SQL("hashint4extended(1, {})").format(_mixed(parts))


def shown(column: Column) -> sql.Composed:
    """The column's text as its type writes it and reads it again; whatever casts to text somebody made."""
    name = sql.Identifier(column.name)
    if column.kind == "b" and column.base in _AMBIGUOUS:
        return sql.SQL("({}::{}::text)").format(name, _AMBIGUOUS[column.base])
    # Compared so, a composite of nothing but NULL is no NULL itself; concat() would make '' of one.
    return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN concat({0}) END").format(name)


def by_text_where_other(ours: Column, theirs: Column) -> Column:
    """Our column; without its type where the other side has another, so that both are hashed as text."""
    same = (ours.base, ours.kind) == (theirs.base, theirs.kind)
    return ours if same else replace(ours, base="", kind="")


def _mixed(parts: Sequence[sql.Composed]) -> sql.Composed:
    """Halved again and again: a server's stack holds no chain of 1,600 operators."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return sql.SQL("({} # {})").format(_mixed(parts[:middle]), _mixed(parts[middle:]))


def _hashed(column: Column, number: int) -> sql.Composed:
    seed, other, absent = (_constant(3 * number + which) for which in range(3))
    value: sql.Composable = sql.Identifier(column.name)
    form = _FORMS.get(column.base) if column.kind in "bd" else None
    if form is None:
        form, value = _TEXT, _text(column)
    elif column.kind == "d":
        # One of the words above.
        value = sql.SQL("({}::{})").format(value, sql.SQL(column.base))  # pyright: ignore[reportArgumentType]
    hashed = form.format(
        v=value, seed=sql.Literal(seed), other=sql.Literal(other), small=sql.Literal(seed >> 32)
    )
    return sql.SQL("coalesce({}, {})").format(hashed, sql.Literal(absent))


def _constant(number: int) -> int:
    """63 bits without a pattern (splitmix64, Steele et al. 2014): with 1, 2 and 3, one and two would mix to three."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & _WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
    return (mixed ^ mixed >> 31) >> 1


def _text(column: Column) -> sql.Composed:
    """Its text by the output function: a cast is anybody's to define, and that of char(n) drops blanks."""
    name = sql.Identifier(column.name)
    if column.kind == "b" and column.base in _AMBIGUOUS:
        return shown(column)
    if column.kind == "b" and column.base == "character":
        return sql.SQL("textin(bpcharout({}))").format(name)
    if column.kind == "b" and column.base.endswith("[]"):
        return sql.SQL("textin(array_out({}))").format(name)
    if column.kind == "e":
        return sql.SQL("textin(enum_out({}))").format(name)
    if column.kind == "b" and "." not in column.base:
        # No schema before it: a type of the server's own.
        return sql.SQL("({}::text)").format(name)
    return sql.SQL("textin(record_out(ROW({})))").format(name)
