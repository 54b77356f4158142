"""Names that break what was written for `orders` and `id`: each is legal in PostgreSQL, each with a word why."""

from __future__ import annotations

import os
from dataclasses import dataclass

# Only payloads name these: in a statement they may stand inside an identifier, a text or a comment, nowhere else.
CANARY = "canary_5e1f"
SINGER = "sing_5e1f"
LIMIT_BYTES = 63
# Of each group the first, which are the worst of it, and in the soak all.
_SHARE = 1.0 if os.environ.get("PLANRUNNER_SOAK") else 0.6


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One name; ``why`` says whom it is meant to fool."""

    name: str
    why: str


def _fitted(head: str, fill: str, tail: str = "") -> str:
    """A name of 63 bytes, or as near as ``fill`` comes to it."""
    room = LIMIT_BYTES - len(head.encode()) - len(tail.encode())
    return head + fill * (room // len(fill.encode())) + tail


_QUOTES = (
    ('"', "a double quote alone"),
    ('""', "two double quotes, which quoting doubles again"),
    ("'", "a single quote alone"),
    ("''", "two single quotes"),
    ("`", "a backtick, MySQL's quote and the shell's"),
    ("it's", "an apostrophe"),
    ('say "hi"', "double quotes inside"),
    ("\u2018single\u2019 \u201cdouble\u201d", "typographic quotes"),
    ("\uff02full\uff07width", "full-width quotes, which normalisation turns into real ones"),
    ("\u00b4acute\u00ab", "an acute accent and a guillemet, taken for quotes by some encodings"),
    ("$$", "a dollar quote"),
    ("$tag$", "a tagged dollar quote"),
    ("$1", "a parameter's place"),
    ("E'\\'", "an escape string that is not closed"),
)
_SQL = (
    ("x; Type: INDEX; Schema: y; Owner: z", "a head line of pg_restore, in the line"),
    ("x\n--\n-- Name: a; Type: INDEX; Schema: b; Owner: c\n--\n\ny", "a whole head of pg_restore's script"),
    ("x\nGRANT ALL ON b TO rdsadmin;\ny", "a grant to a provider's role on a line of its own"),
    ("x\nALTER TABLE b OWNER TO rdsadmin;\ny", "a provider's role as owner, on a line of its own"),
    ("; 5; 1259 16384 TABLE", "a line of pg_restore's list"),
    ("NOT VALID", "a word that is looked for in foreign keys"),
    (f'"; DROP TABLE {CANARY}; --', "the classic, out of a quoted identifier"),
    (f"'; DROP TABLE {CANARY}; --", "the classic, out of a text"),
    (f"'||(SELECT {SINGER}())||'", "a call inside a text that is put together"),
    (f'"||(SELECT {SINGER}())||"', "a call inside an identifier that is put together"),
    (f"$$||{SINGER}()||$$", "a call out of a dollar quote"),
    (f"); SELECT {SINGER}(); --", "a call behind a column list that ends too early"),
    (f"\n; SELECT {SINGER}();\n--", "a call on a line of its own, behind a comment that ends"),
    (f"*/ SELECT {SINGER}(); /*", "a call out of a block comment"),
    (f"x; COPY {CANARY} TO PROGRAM 'touch {CANARY}'", "a program started by the server"),
    ("--", "a comment to the line's end"),
    ("/*", "a block comment that is not closed"),
    ("*/", "a block comment's end"),
    (";", "a statement's end"),
    (",", "a list's comma"),
    ("(", "an opening bracket, which nothing closes"),
    (")", "a closing bracket"),
    ("()", "a function call's brackets"),
    ("::text", "a cast"),
    ("a->>'b'", "an operator of JSON"),
    ("a @> b", "a containment operator"),
    ("PRIMARY KEY", "a word that is looked for in constraints"),
    (" USING btree (", "what stands behind an index's table"),
    ("x ON a.b USING gin (", "an index's definition in its name"),
    ("TABLE DATA public x", "an entry of pg_restore's list"),
)
_FORMATS = (
    ("%s", "Python's and psycopg's placeholder"),
    ("%(x)s", "a named placeholder"),
    ("%", "a placeholder cut off"),
    ("%%", "a doubled percent sign"),
    ("%I %L %n", "placeholders of the server's format()"),
    ("{}", "a field of str.format and sql.SQL"),
    ("{0}", "a numbered field"),
    ("{0.__class__}", "a field that reaches into an object"),
    ("{{ 7*7 }}", "an expression of Jinja2"),
    ("{% for x in y %}", "a statement of Jinja2"),
    ("${HOME}", "a variable of the shell's"),
    ("$HOME", "a variable without braces"),
    ("&#34;&quot;", "entities of HTML"),
)
_BLANKS = (
    ("a\n", "a newline at the end, which $ overlooks"),
    ("a\x0bb", "a vertical tab, at which splitlines() cuts"),
    ("\u2028", "a line separator, at which splitlines() cuts"),
    ("a\x85b", "next line, at which splitlines() cuts"),
    ("a\x1cb\x1db\x1eb", "separators of files, groups and records"),
    (" ", "a space alone"),
    (" lead", "a leading space"),
    ("trail ", "a trailing space"),
    ("  ", "two spaces, which HTML shows as one"),
    ("in the middle", "spaces inside"),
    ("\t", "a tab alone, COPY's separator"),
    ("a\tb", "a tab inside"),
    ("\n", "a newline alone"),
    ("a\nb", "a newline inside"),
    ("\r", "a carriage return"),
    ("a\r\nb", "a line's end of Windows"),
    ("\u00a0", "a space that does not break"),
    ("\u3000", "an ideographic space"),
    ("a\u2029b", "a paragraph separator"),
    ("a\x0cb", "a form feed"),
)
_CONTROLS = (
    ("\x01", "the first control character"),
    ("\x07", "a bell"),
    ("\x08\x08\x08", "backspaces, which take back what was written"),
    ("\x1b[31mred\x1b[0m", "a terminal's colour"),
    ("\x1b[2J\x1b[H", "a terminal's clear screen"),
    ("\x1b]0;title\x07", "a terminal's window title"),
    ("\x1b]8;;http://evil.example\x1b\\x", "a terminal's hyperlink"),
    ("\x7f", "delete"),
    ("\x9b31m", "a colour by one byte of C1"),
)
_UNICODE = (
    ("\u202egnirts", "right-to-left override"),
    ("\ufeffbom", "a byte order mark"),
    ("\U0001f418", "an emoji, four bytes"),
    ("\u200d", "a zero-width joiner alone"),
    ("\U0010ffff", "the last code point"),
    ("\u2066isolate", "an isolate that is not closed"),
    ("a\u200bb", "a zero-width space"),
    ("e\u0301", "a decomposed letter"),
    ("\u00e9", "the same letter composed"),
    ("z\u0341\u0341\u0341\u0341\u0341\u0341", "combining marks heaped up"),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "an emoji of several"),
    ("\u0441anary", "a homoglyph: a Cyrillic letter"),
    ("\uff53\uff45\uff4c\uff45\uff43\uff54", "full-width letters"),
    ("Stra\u00dfe", "a letter that grows in upper case"),
    ("\u0130stanbul", "a letter that grows in lower case"),
    ("\u65e5\u672c\u8a9e", "three bytes a letter"),
    ("\ue000", "a letter of the private use area"),
    ("\ufffd", "what decoders put for what they can't read"),
)
_WORDS = (
    ("UPPER", "upper case"),
    ("upper", "the same in lower case"),
    ("Mixed Case", "mixed case with a space"),
    ("current_user", "a role that is a word"),
    ("--help", "an option"),
    ("-", "a dash alone"),
    ("9lives", "a digit first"),
    ("123", "digits only"),
    ("select", "a reserved word"),
    ("user", "a reserved word that is a function"),
    ("table", "a reserved word"),
    ("all", "a reserved word of publications"),
    ("only", "a reserved word before tables"),
    ("null", "a reserved word that is a value"),
    ("default", "a reserved word of columns"),
    ("session_user", "another one"),
    ("true", "a word of YAML and SQL"),
    ("1e3", "a number with an exponent"),
    ("0x1f", "a number in hexadecimal"),
    ("-1", "a negative number"),
    ("UTC", "a time zone"),
    ("Europe/Berlin", "a time zone with a slash"),
    ("now()", "a function"),
    ("NaN", "a number that is none"),
)
_OURS = (
    ("planrunner_truncate", "the trigger of split tables"),
    ("planrunner_fence", "the fence's trigger"),
    ("pr_00000000_g1", "a stream of another plan"),
    ("planrunner plan 00000000", "an owner mark"),
    ("ledger", "a table of ours"),
    ("barrier_00000000_1", "a barrier of another plan"),
    ("xpg_catalog", "nearly the system's schema"),
    ("pg.catalog", "the system's schema with a dot"),
    ("token", "a column of the barrier"),
    ("whole_row", "an alias"),
    ("t", "another alias"),
)
_PATTERNS = (
    ('a"."b', "a dot between quotes"),
    ("a.b.c", "two dots"),
    ("a#1", "the mark of a range"),
    ("a.b", "a dot"),
    (".", "a dot alone"),
    ("*", "a star alone"),
    ("a*b?c", "wildcards"),
    ("[a-z]", "a character class"),
    ("[]", "an array"),
    (".*", "a regular expression"),
    ("^a$|b+", "more of one"),
    ("(?i)x", "an option of one"),
    ("a|b", "an alternative, or a column of Markdown"),
    ("_", "LIKE's single character"),
)
_SHELL = (
    (f"$(touch {CANARY})", "a command's output"),
    (f"`touch {CANARY}`", "the same in backticks"),
    (f"| touch {CANARY}", "a pipe"),
    (f"; touch {CANARY} #", "a second command"),
    (f"\n\\! touch {CANARY}\n", "psql's shell, on a line of its own"),
    ("\\copy x from y", "psql's copy"),
    ("\\.", "the end of COPY's data"),
    ("\n\\.\n", "the end of COPY's data on a line of its own"),
    ("\\g x", "psql's output"),
    ("\\N", "COPY's NULL"),
    ("\\", "a backslash alone"),
    ("\\\\", "two backslashes"),
    ("\\x41\\101\\u0041", "escapes"),
    (":x", "a variable of psql's"),
    (":'x'", "the same as a text"),
    (':"x"', "the same as an identifier"),
    ("../../x", "a path upwards"),
    ("/dev/fd/0", "a device"),
    ("C:\\x", "a path of Windows"),
    ("~root", "a home"),
)
_FORMS = (
    ("<script>alert(1)</script>", "a script in HTML"),
    ('"><img src=x onerror=alert(1)>', "an attribute that ends"),
    ("</td></table>", "a table that ends"),
    ("password=hunter2", "what is taken for a password"),
    ("password 'x'", "what is taken for a password of SQL's"),
    ("[red]x[/red]", "markup of rich"),
    ("a b=c", "a setting of a DSN"),
    ("x host=evil.example", "a host of a DSN"),
    ("dbname=x' user='y", "quotes of a DSN"),
    ("%2e%2F%00", "percent encoding"),
    ("<!--", "a comment of HTML"),
    ("[x](javascript:alert(1))", "a link of Markdown"),
    ("![x](http://evil.example)", "a picture of Markdown"),
    ("**x** _y_", "emphasis"),
    ("```", "a fence"),
    ("# x", "a heading, or a comment of YAML"),
    ("a: b", "a mapping of YAML"),
    ("- x", "a list of YAML"),
    ("&a *a", "an anchor and its alias"),
    ("!!python/object:os.system x", "a tag of YAML"),
    ("{a: 1}", "a flow mapping"),
    ("~", "null of YAML"),
    ('{"a": [1]}', "JSON"),
    ("\\u0000", "a NUL of JSON, spelt"),
    ("a@b:1/c", "a login, a port, a path of a URL"),
    ("?sslmode=disable", "a parameter of a URL"),
    ("postgresql://u:p@h/d", "a URL with a password"),
    ("a=b;c", "a cookie"),
)
_LONG = (
    (_fitted("abc", "\U0001f418"), "63 bytes, four a letter"),
    (_fitted("", '"'), "63 quotes, which make 128"),
    (_fitted("", "x"), "63 bytes"),
    (_fitted("", "x", "y"), "63 bytes, equal in all but the last"),
    (_fitted("", "x", " z"), "63 bytes, equal in all but the last two"),
    (_fitted("", "\u00fc") + "a", "63 bytes, two a letter"),
    (_fitted("", "\u65e5"), "63 bytes, three a letter"),
    (_fitted("", "\\"), "63 backslashes"),
    (_fitted("-- no comment ", "at all "), "what reads as a comment"),
)
_GROUPS = (
    _QUOTES,
    _SQL,
    _FORMATS,
    _BLANKS,
    _CONTROLS,
    _UNICODE,
    _WORDS,
    _OURS,
    _PATTERNS,
    _SHELL,
    _FORMS,
    _LONG,
)
EVERY = tuple(Hostile(name=name, why=why) for group in _GROUPS for name, why in group)
NAMES = tuple(
    Hostile(name=name, why=why) for group in _GROUPS for name, why in group[: round(len(group) * _SHARE)]
)
