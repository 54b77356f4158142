"""The locks say what the constraints say, the bill and the page of licences what the locks say."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from referencing import Registry, Resource

from release import bill, licences
from release.components import ALLOWED, Locked, licence, locked
from tests.pages import ROOT

PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {"runtime": (), "sandbox": ("sandbox",), "executable": ("executable",)}
STALE = "run `make lock`"


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("name", [*LOCKS, "build"])
def test_a_lock_pins_the_versions_that_are_tested_by_hashes_and_names_no_index(name: str) -> None:
    file = ROOT / f"locks/{name}.txt"
    packages = locked(file)
    assert all(len(digest) == 64 for package in packages for digest in package.hashes)
    assert all(package.hashes for package in packages)
    assert "://" not in file.read_text("utf-8")
    assert "index" not in file.read_text("utf-8")
    known = constraints()
    differing = {p.name: p.version for p in packages if known.get(p.name, p.version) != p.version}
    assert differing == {}, STALE
    # What only other systems install is not among what is tested here.
    unknown = {p.name for p in packages if p.name not in known and not re.search("win32|darwin", p.marker)}
    assert unknown <= ({"hatchling", "trove-classifiers", "tomlkit"} if name == "build" else set()), STALE


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for(name: str) -> None:
    asked = [*PROJECT["dependencies"]]
    for extra in LOCKS[name]:
        asked += PROJECT["optional-dependencies"][extra]
    versions = {package.name: package.version for package in locked(ROOT / f"locks/{name}.txt")}
    for requirement in map(Requirement, asked):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name}: {STALE}"
        assert requirement.specifier.contains(version), f"{requirement}: {STALE}"


def test_the_bill_of_materials_is_that_of_the_lock() -> None:
    assert bill.FILE.read_text("utf-8") == bill.bill(), "run `make docs`"


def test_the_bill_of_materials_is_valid_and_complete() -> None:
    told = json.loads(bill.FILE.read_text("utf-8"))
    folder = resources.files("cyclonedx.schema._res")
    schemas: dict[str, Any] = {
        name: json.loads(folder.joinpath(f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    registry: Registry[Any] = Registry().with_resources(
        [
            (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", Resource.from_contents(schema))
            for name, schema in schemas.items()
        ]
    )
    problems = Draft7Validator(schemas["bom-1.6"], registry=registry).iter_errors(told)
    assert [problem.message for problem in problems] == []
    packages = locked(ROOT / "locks/runtime.txt")
    assert {c["name"]: c["version"] for c in told["components"]} == {p.name: p.version for p in packages}
    reached, ahead = set(), [told["metadata"]["component"]["bom-ref"]]
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in told["dependencies"]}
    while ahead:
        if (ref := ahead.pop()) not in reached:
            reached.add(ref)
            ahead += needs[ref]
    assert reached == needs.keys(), "a package that nobody asks for"


def test_the_page_of_licences_is_that_of_the_locks() -> None:
    assert licences.PAGE.read_text("utf-8") == licences.page(), "run `make docs`"


def test_a_licence_that_nobody_has_looked_at_stops_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Locked(name="attrs", version="1", marker="", hashes=())
    assert licence(package) == "MIT"
    monkeypatch.delitem(ALLOWED, "MIT")
    with pytest.raises(SystemExit, match="attrs 1: its licence is not an allowed one: MIT"):
        licence(package)
