"""Findings as SARIF 2.1.0, which code scanning of GitHub, GitLab and editors reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from planrunner import __version__
from planrunner.linting.rules import rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.linting.inspect import Finding, Inspection
    from planrunner.linting.rules import Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def to_sarif(found: Sequence[Inspection]) -> str:
    """One run with every rule and every finding; what is disabled is there as suppressed in the source."""
    run = {
        "tool": {
            "driver": {
                "name": "planrunner",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(rule) for rule in rules().values()],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding) for inspection in found for finding in inspection.findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.name.replace("-", " ")},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.why},
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _result(finding: Finding) -> dict[str, Any]:
    problem = finding.problem
    where = f"{problem.where}: " if problem.where else ""
    text = f"{where}{problem.message}" + (f". {problem.remedy}" if problem.remedy else "")
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(problem.path)},
            "region": {"startLine": problem.line, "startColumn": problem.column},
        }
    }
    if problem.where:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.where}]
    result: dict[str, Any] = {
        "ruleId": problem.code,
        "ruleIndex": list(rules()).index(problem.code),
        "level": finding.severity.value,
        "message": {"text": text},
        "locations": [location],
    }
    if finding.disabled is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.disabled}]
    return result


def _uri(path: str) -> str:
    """Relative to where the check runs, as code scanning wants it; absolute where it lies elsewhere."""
    given = Path(path)
    if not given.is_absolute():
        return quote(given.as_posix())
    here = Path.cwd()
    return quote(given.relative_to(here).as_posix()) if given.is_relative_to(here) else given.as_uri()
