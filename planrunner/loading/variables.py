"""Gives every declared variable its value: --var, then --var-file, PLANRUNNER_VAR_NAME, default."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from planrunner.loading.document import Document, shown, suggestion
from planrunner.loading.matching import BadPattern, Patience, TooSlow, check
from planrunner.loading.source import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from planrunner.model import Json, Problem

Value: TypeAlias = str | int | float | bool
Declaration: TypeAlias = "Mapping[str, Json]"

ENVIRONMENT_PREFIX = "PLANRUNNER_VAR_"
LONGEST_VALUE = 10_000
_WHOLE = "The whole value must match; correct it or the pattern."


@dataclass(frozen=True, kw_only=True)
class Given:
    """What comes from outside the plan."""

    variables: Mapping[str, str]
    var_files: Sequence[Path]
    environ: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The values, and the names that are declared though their value is missing or wrong."""

    values: Mapping[str, Value]
    declared: frozenset[str]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A value for a variable and how to complain about it; ``text`` is still to be read as its type."""

    value: Json
    complain: Callable[[str, str | None], Problem]
    text: bool = False


def resolve(document: Document, given: Given) -> Variables:
    """The variables' values; UsageError for a variable file that can't be read."""
    declarations = _declarations(document)
    files = [read(path) for path in given.var_files]
    problems = [*_unknown_options(document, given, declarations)]
    for file in files:
        problems += [*file.problems, *_unknown_names(file, declarations)]
    values: dict[str, Value] = {}
    patience = Patience()
    for name, declaration in declarations.items():
        found = _Variable(document, name, declaration, patience).resolve(
            _candidates(document, name, given, files)
        )
        problems += found if isinstance(found, list) else []
        if not isinstance(found, list):
            values[name] = found
    return Variables(values=values, declared=frozenset(declarations), problems=tuple(problems))


def _declarations(document: Document) -> dict[str, Declaration]:
    tree = document.tree if isinstance(document.tree, dict) else {}
    declared = cast("Mapping[str, Json]", tree).get("vars")
    entries = cast("Mapping[str, Json]", declared).items() if isinstance(declared, dict) else ()
    # A declaration that is no mapping is the schema's to tell; its name is known nevertheless.
    return {
        name: cast("Declaration", entry) if isinstance(entry, dict) else {"type": ""}
        for name, entry in entries
    }


def _unknown_options(
    document: Document, given: Given, declarations: Mapping[str, Declaration]
) -> Iterator[Problem]:
    for name in given.variables:
        if name not in declarations:
            message = f"--var gives {shown(name)}, which the plan does not declare"
            yield document.problem(("vars",), message, suggestion(name, declarations, label="Declared"))


def _unknown_names(file: Document, declarations: Mapping[str, Declaration]) -> Iterator[Problem]:
    if not isinstance(file.tree, dict):
        if () not in file.told:
            yield file.problem((), "expected a mapping of variables to values", "Write NAME: VALUE lines.")
        return
    for name in cast("Mapping[str, Json]", file.tree):
        if name not in declarations:
            message = f"the plan does not declare the variable {shown(name)}"
            yield file.problem_with_name((name,), message, suggestion(name, declarations, label="Declared"))


def _candidates(
    document: Document, name: str, given: Given, files: Sequence[Document]
) -> Iterator[_Candidate]:
    """The values given from outside, the strongest first."""
    if name in given.variables:
        yield _from_text(document, name, given.variables[name], "--var")
    for file in reversed(files):
        tree = cast("Mapping[str, Json]", file.tree) if isinstance(file.tree, dict) else {}
        if name in tree and (name,) not in file.told:
            yield _Candidate(value=tree[name], complain=_complainer(file, name))
    variable = ENVIRONMENT_PREFIX + name
    if variable in given.environ:
        yield _from_text(document, name, given.environ[variable], variable)


def _complainer(file: Document, *keys: str) -> Callable[[str, str | None], Problem]:
    return lambda message, remedy: file.problem(keys, message, remedy)


def _from_text(document: Document, name: str, value: str, origin: str) -> _Candidate:
    def complain(message: str, remedy: str | None) -> Problem:
        return document.problem_with_name(("vars", name), f"{origin}: {message}", remedy)

    return _Candidate(value=value, complain=complain, text=True)


class _Variable:
    """One declared variable."""

    def __init__(self, document: Document, name: str, declaration: Declaration, patience: Patience) -> None:
        self._patience = patience
        self._document = document
        self._name = name
        self._declaration = declaration
        # What is no type at all is the schema's to tell.
        declared = declaration.get("type", "string")
        self._type = declared if isinstance(declared, str) and declared in _FITS else None

    def resolve(self, candidates: Iterator[_Candidate]) -> Value | list[Problem]:
        """The value, or what is wrong; nothing is wrong twice, so a bad declaration yields no problem here."""
        problems = [*self._declaration_faults()]
        if problems or self._type is None or ("vars", self._name) in self._document.told:
            return problems
        chosen = next(candidates, None) or self._default()
        if chosen is None:
            return [] if self._told("default") else [self._missing()]
        value = _read(chosen.value, self._type) if chosen.text else chosen.value
        fault = self._fault(value)
        if fault is not None:
            return [chosen.complain(*fault)]
        return cast("Value", value)

    def _told(self, key: str) -> bool:
        return ("vars", self._name, key) in self._document.told

    def _default(self) -> _Candidate | None:
        if "default" not in self._declaration or self._told("default"):
            return None
        complain = _complainer(self._document, "vars", self._name, "default")
        return _Candidate(value=self._declaration["default"], complain=complain)

    def _missing(self) -> Problem:
        text = f"the variable {shown(self._name)} has no value"
        remedy = (
            f"Give it: --var {self._name}=…, or {self._name}: … in a --var-file, or"
            f" {ENVIRONMENT_PREFIX}{self._name}=… in the environment, or a default here."
        )
        return self._document.problem_with_name(("vars", self._name), text, remedy)

    def _declaration_faults(self) -> Iterator[Problem]:
        default = self._declaration.get("default")
        if isinstance(default, str) and "{{" in default:
            text = "a default is taken literally, so it can't be a template"
            yield self._at("default", text, "Put the template where the variable is used.")
        elif isinstance(default, str | int | float) and self._type and (fault := self._fault(default)):
            yield self._at("default", *fault)
        try:
            check(str(self._declaration.get("pattern", "")))
        except BadPattern as error:
            yield self._at("pattern", "this is not a regular expression", f"It can't be used: {error}.")

    def _at(self, key: str, message: str, remedy: str | None = None) -> Problem:
        return self._document.problem(("vars", self._name, key), message, remedy)

    def _fault(self, value: Json) -> tuple[str, str | None] | None:
        if not _FITS[str(self._type)](value):
            return f"expected {self._type}, got {shown(value)}", _type_remedy(value, str(self._type))
        choices = self._declaration.get("enum")
        if isinstance(choices, list) and choices and not any(_same(value, choice) for choice in choices):
            return f"{shown(value)} is not allowed", f"Choose one of: {', '.join(map(shown, choices))}."
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            return f"longer than {LONGEST_VALUE:,} characters", None
        pattern = self._declaration.get("pattern")
        return self._misfit(pattern, value) if isinstance(pattern, str) else None

    def _misfit(self, pattern: str, value: Json) -> tuple[str, str] | None:
        try:
            fits = self._patience.matches(pattern, str(value))
        except TooSlow as error:
            return "the pattern can't be tried on it", f"The pattern: {error}."
        except BadPattern:
            return None  # told at the pattern itself
        return None if fits else (f"{shown(value)} does not match the pattern {pattern}", _WHOLE)


def _same(value: Json, choice: Json) -> bool:
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _type_remedy(value: Json, wanted: str) -> str | None:
    if wanted == "string" and isinstance(value, bool | int | float):
        return "Put it in quotes, or declare another type."
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return "Write it without quotes."
    return "Write true or false." if wanted == "boolean" else None


_FITS: Mapping[str, Callable[[Json], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "boolean": lambda value: isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _read(text: Json, wanted: str) -> Json:
    """A text from outside as ``wanted``; itself where it is none, so that the complaint can quote it."""
    value = str(text)
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    if wanted == "boolean":
        return {"true": True, "false": False}.get(value, value)
    if wanted in {"integer", "number"} and re.fullmatch(r"[-+]?[0-9]{1,100}", value):
        return int(value)
    if wanted == "number" and re.fullmatch(r"[-+]?[0-9]{0,50}\.?[0-9]{1,50}(?:[eE][-+]?[0-9]{1,3})?", value):
        return float(value) if math.isfinite(float(value)) else value
    return value
