"""A schema script is cut where pg_restore put its heads, whatever stands in names, texts and owners."""

from __future__ import annotations

from planrunner.replication.providers import Provider
from planrunner.replication.schema_dump import _parse  # pyright: ignore[reportPrivateUsage]

NOBODY = Provider(there=frozenset(), assumable=frozenset())
FAKE = "\n--\n-- Name: a; Type: INDEX; Schema: b; Owner: c\n--\n"


def entry(name: str, kind: str, schema: str, owner: str, text: str) -> tuple[str, str]:
    """An entry as the script has it, and as the list tells it."""
    head = f"--\n-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: {owner}\n--\n\n{text}\n\n\n"
    return head, f"12; 1259 16384 {kind} {schema} {name} {owner}"


def parsed(*entries: tuple[str, str]) -> list[tuple[str, str, str]]:
    script = "SET lock_timeout = 0;\n" + "".join(text for text, _ in entries)
    found = _parse(script, frozenset({"lock_timeout"}), [line for _, line in entries], NOBODY)
    assert "".join(e.sql for e in found.entries).count("CREATE") == len(entries)
    return [(e.type, e.schema, e.name) for e in found.entries]


def test_a_head_inside_a_name_is_none() -> None:
    told = entry(
        "x -- -- Name: a; Type: INDEX; Schema: b; Owner: c -- y", "TABLE", "s", "o", f'CREATE "x{FAKE}y"'
    )
    other = entry("t_pkey", "INDEX", "s", "o", "CREATE INDEX")
    assert [kind for kind, _, _ in parsed(told, other)] == ["TABLE", "INDEX"]


def test_names_that_hold_what_stands_between_the_parts() -> None:
    odd = "x; Type: INDEX; Schema: y; Owner: z"
    told = [
        entry(*words, "CREATE")
        for words in ((odd, "TABLE", "s", "o"), ("t", "VIEW", odd, "o"), ("t", "TABLE", "s", odd))
    ]
    assert parsed(*told) == [("TABLE", "s", odd), ("VIEW", odd, "t"), ("TABLE", "s", "t")]


def test_grants_stand_behind_all_else_and_event_triggers_behind_them_whatever_the_lists_order() -> None:
    told = [
        entry("SCHEMA s", "ACL", "-", "o", "CREATE: no, GRANT"),
        entry("watch", "EVENT TRIGGER", "-", "o", "CREATE"),
        entry("t", "TABLE", "s", "o", "CREATE"),
        entry("DEFAULT PRIVILEGES FOR TABLES", "DEFAULT ACL", "s", "o", "CREATE: no, ALTER DEFAULT"),
    ]
    grants, trigger, table, defaults = (text for text, _ in told)
    script = "".join((table, grants, defaults, trigger))
    found = _parse(script, frozenset(), [line for _, line in told], NOBODY)
    assert [e.type for e in found.entries] == ["TABLE", "ACL", "DEFAULT ACL", "EVENT TRIGGER"]
    assert "".join(e.sql for e in found.entries).count("CREATE") == len(told)


def test_a_script_that_does_not_fit_its_list_is_one_entry() -> None:
    one = entry("t", "TABLE", "s", "o", "CREATE")
    found = _parse(one[0], frozenset(), [one[1], "13; 1 2 VIEW s v o"], NOBODY)
    assert [e.type for e in found.entries] == ["SECTION"]


def test_a_name_that_looks_like_a_grant_to_the_provider_stays() -> None:
    text = 'GRANT SELECT ON TABLE s."x\nGRANT ALL ON b TO rdsadmin;\ny" TO app;\nGRANT ALL ON TABLE s.t TO rdsadmin;\n'
    assert NOBODY.cleaned("ACL", "o", text) == text.partition("GRANT ALL ON TABLE")[0]
