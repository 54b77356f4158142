"""Gives every declared variable its value: --var, then --var-file, PLANRUNNER_VAR_NAME, default or secret."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from planrunner.loading.document import Document, shown, suggestion
from planrunner.loading.matching import BadPattern, Patience, TooSlow, check
from planrunner.loading.references import referred, well_formed
from planrunner.loading.sensitive import unfit
from planrunner.loading.source import read
from planrunner.masking import hush
from planrunner.references import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.loading.document import Keys
    from planrunner.model import Json, Problem, Secret, SecretRef

Value: TypeAlias = str | int | float | bool
Declaration: TypeAlias = "Mapping[str, Json]"

ENVIRONMENT_PREFIX = "PLANRUNNER_VAR_"
LONGEST_VALUE = 10_000
_WHOLE = "The whole value must match; correct it or the pattern."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value was written that is given as --var gives it; ``keys`` end with the variable's name."""

    document: Document
    keys: Keys


@dataclass(frozen=True, kw_only=True)
class Given:
    """What comes from outside the plan; ``origins`` are the places of ``variables`` that stand in a file."""

    variables: Mapping[str, str]
    var_files: Sequence[Path]
    environ: Mapping[str, str]
    origins: Mapping[str, Origin] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A sensitive variable whose value is kept elsewhere; ``check`` tells what is wrong with the value."""

    ref: SecretRef
    check: Callable[[str], Problem | None]


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The values, and the names that are declared though their value is missing or wrong.

    ``sensitive`` names those whose values nobody may read; ``pending`` those of them that are kept elsewhere.
    """

    values: Mapping[str, Value]
    declared: frozenset[str]
    problems: tuple[Problem, ...]
    sensitive: frozenset[str] = frozenset()
    pending: Mapping[str, Pending] = field(default_factory=dict)

    def fetched(self, resolve: Callable[[SecretRef], Secret]) -> Variables:
        """The variables with what is kept elsewhere looked up; SecretUnavailable when that fails."""
        values = {name: resolve(one.ref).reveal() for name, one in self.pending.items()}
        found = [self.pending[name].check(value) for name, value in values.items()]
        problems = tuple(problem for problem in found if problem is not None)
        return replace(self, values={**self.values, **values}, problems=problems, pending={})


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A value for a variable and how to complain about it; ``text`` is still to be read as its type.

    ``folder`` is where the files lie that it may refer to; None where no reference can stand.
    """

    value: Json
    complain: Callable[[str, str | None], Problem]
    text: bool = False
    folder: Path | None = None


def resolve(document: Document, given: Given) -> Variables:
    """The variables' values, nothing of them looked up; UsageError for a variable file that can't be read."""
    declarations = _declarations(document)
    files = [read(path) for path in given.var_files]
    sensitive = frozenset(n for n, declared in declarations.items() if declared.get("sensitive") is True)
    problems = [*_unknown_options(document, given, declarations)]
    for file in files:
        found = [*file.problems, *referred(file, sensitive)]
        # The line of a file that holds sensitive values may show one, and so may that of a value that nobody declares.
        problems += [replace(one, excerpt=None) for one in found] if sensitive else found
        problems += [replace(one, excerpt=None) for one in _unknown_names(file, declarations)]
    patience = Patience()
    values: dict[str, Value] = {}
    pending: dict[str, Pending] = {}
    for name, declaration in declarations.items():
        variable = _Variable(document, name, declaration, patience)
        resolved = variable.resolve(_candidates(document, name, given, files))
        if isinstance(resolved, list):
            problems += resolved
        elif isinstance(resolved, Pending):
            pending[name] = resolved
        else:
            values[name] = resolved
    return Variables(
        values=values,
        declared=frozenset(declarations),
        problems=tuple(problems),
        sensitive=sensitive,
        pending=pending,
    )


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
        if name in given.origins:
            yield from _unfit_name(given.origins[name], name, declarations)
        elif name not in declarations:
            message = f"--var gives {shown(name)}, which the plan does not declare"
            yield document.problem(("vars",), message, suggestion(name, declarations, label="Declared"))
        elif declarations[name].get("sensitive") is True:
            message = "--var gives a sensitive variable: it would stand in the shell's history and in lists of processes"
            remedy = f"Give it by {ENVIRONMENT_PREFIX}{name} or in a --var-file, and change the value: it was seen."
            yield document.problem_with_name(("vars", name), message, remedy)


def _unfit_name(origin: Origin, name: str, declarations: Mapping[str, Declaration]) -> Iterator[Problem]:
    if name not in declarations:
        message = f"the plan does not declare the variable {shown(name)}"
        yield _unquoted(
            origin.document, origin.keys, message, suggestion(name, declarations, label="Declared")
        )
    elif declarations[name].get("sensitive") is True:
        message = f"the variable {shown(name)} is sensitive, and its value would stand here for all to read"
        remedy = "Say in the plan where it is kept, such as secret: {env: NAME}, and change the value: it was seen."
        yield replace(origin.document.problem(origin.keys, message, remedy), excerpt=None)


def _unknown_names(file: Document, declarations: Mapping[str, Declaration]) -> Iterator[Problem]:
    if not isinstance(file.tree, dict):
        if () not in file.told:
            yield file.problem((), "expected a mapping of variables to values", "Write NAME: VALUE lines.")
        return
    for name in cast("Mapping[str, Json]", file.tree):
        if name not in declarations:
            message = f"the plan does not declare the variable {shown(name)}"
            yield _unquoted(file, (name,), message, suggestion(name, declarations, label="Declared"))


def _unquoted(file: Document, keys: Keys, message: str, remedy: str) -> Problem:
    # It may be a sensitive variable's name misspelt, with its value beside it.
    return replace(file.problem_with_name(keys, message, remedy), excerpt=None)


def _candidates(
    document: Document, name: str, given: Given, files: Sequence[Document]
) -> Iterator[_Candidate]:
    """The values given from outside, the strongest first."""
    if name in given.variables:
        if name in given.origins:
            origin = given.origins[name]
            complain = _complainer(origin.document, *origin.keys)
            yield _Candidate(value=given.variables[name], complain=complain, text=True)
        else:
            yield _from_text(document, name, given.variables[name], "--var")
    for file in reversed(files):
        tree = cast("Mapping[str, Json]", file.tree) if isinstance(file.tree, dict) else {}
        if name in tree and (name,) not in file.told:
            folder = Path(file.path).parent
            yield _Candidate(value=tree[name], complain=_complainer(file, name), folder=folder)
    variable = ENVIRONMENT_PREFIX + name
    if variable in given.environ:
        yield _from_text(document, name, given.environ[variable], variable)


def _complainer(file: Document, *keys: str | int) -> Callable[[str, str | None], Problem]:
    return lambda message, remedy: file.problem(keys, message, remedy)


def _from_text(document: Document, name: str, value: str, origin: str) -> _Candidate:
    def complain(message: str, remedy: str | None) -> Problem:
        return document.problem_with_name(("vars", name), f"{origin}: {message}", remedy)

    return _Candidate(value=value, complain=complain, text=True)


class _Variable:
    """One declared variable."""

    def __init__(self, document: Document, name: str, declaration: Declaration, patience: Patience) -> None:
        self._document = document
        self._name = name
        self._declaration = declaration
        # What is no type at all is the schema's to tell.
        declared = declaration.get("type", "string")
        self._type = declared if isinstance(declared, str) and declared in _FITS else None
        self._sensitive = declaration.get("sensitive") is True
        self._patience = patience

    def resolve(self, candidates: Iterator[_Candidate]) -> Value | Pending | list[Problem]:
        """The value, or what is wrong; nothing is wrong twice, so a bad declaration yields no problem here."""
        problems = [*self._declaration_faults()]
        if problems or self._type is None or ("vars", self._name) in self._document.told:
            return problems
        chosen = next(candidates, None) or self._kept() or self._default()
        if chosen is None:
            return [] if self._told("default") else [self._missing()]
        if isinstance(chosen, Pending):
            return chosen
        if self._sensitive:
            return self._hushed(chosen)
        value = _read(chosen.value, self._type) if chosen.text else chosen.value
        fault = self._fault(value)
        if fault is not None:
            return [chosen.complain(*fault)]
        return cast("Value", value)

    def _hushed(self, chosen: _Candidate) -> Value | Pending | list[Problem]:
        """A sensitive variable's value: from now on no text shows it."""

        def examine(value: Json) -> Problem | None:
            fault = unfit(value)
            if fault is None and isinstance(value, str):
                hush(value)
                fault = self._fault(value)
            return None if fault is None else replace(chosen.complain(*fault), excerpt=None)

        value = chosen.value
        if isinstance(value, dict) and chosen.folder is not None:
            # What is wrong with a reference is told with its file.
            secret = cast("Mapping[str, Json]", value).get("secret")
            return (
                Pending(ref=reference(secret, chosen.folder), check=examine) if _is_reference(secret) else []
            )
        problem = examine(_read(value, "string") if chosen.text else value)
        return cast("str", value) if problem is None else [problem]

    def _kept(self) -> Pending | None:
        secret = self._declaration.get("secret")
        if not self._sensitive or not _is_reference(secret):
            return None
        complain = _complainer(self._document, "vars", self._name, "secret")
        folder = Path(self._document.path).parent
        found = self._hushed(_Candidate(value={"secret": secret}, complain=complain, folder=folder))
        return found if isinstance(found, Pending) else None

    def _told(self, key: str) -> bool:
        return ("vars", self._name, key) in self._document.told

    def _default(self) -> _Candidate | None:
        if "default" not in self._declaration or self._told("default"):
            return None
        complain = _complainer(self._document, "vars", self._name, "default")
        return _Candidate(value=self._declaration["default"], complain=complain)

    def _missing(self) -> Problem:
        text = f"the variable {shown(self._name)} has no value"
        option = "" if self._sensitive else f"--var {self._name}=…, or "
        here = "a secret to look up here" if self._sensitive else "a default here"
        remedy = (
            f"Give it: {option}{self._name}: … in a --var-file, or"
            f" {ENVIRONMENT_PREFIX}{self._name}=… in the environment, or {here}."
        )
        return self._document.problem_with_name(("vars", self._name), text, remedy)

    def _declaration_faults(self) -> Iterator[Problem]:
        default = self._declaration.get("default")
        if self._sensitive:
            yield from self._sensitive_faults()
        elif "secret" in self._declaration:
            yield self._at("secret", "only a sensitive variable is kept elsewhere", "Add sensitive: true.")
        elif isinstance(default, str) and "{{" in default:
            text = "a default is taken literally, so it can't be a template"
            yield self._at("default", text, "Put the template where the variable is used.")
        elif default is not None and self._type is not None and (fault := self._fault(default)):
            yield self._at("default", *fault)
        yield from self._choice_faults()
        try:
            check(str(self._declaration.get("pattern", "")))
        except BadPattern as error:
            yield self._at("pattern", "this is not a regular expression", f"It can't be used: {error}.")

    def _sensitive_faults(self) -> Iterator[Problem]:
        if self._type != "string":
            yield self._at("type", "a sensitive variable is a text", "Take the type away, or write string.")
        for key in ("default", "enum"):
            if key in self._declaration:
                text = f"the {key} of a sensitive variable would stand in the plan, for all to read"
                remedy = (
                    "Say where it is kept instead, such as secret: {env: NAME}, or give it by a --var-file."
                )
                yield replace(self._at(key, text, remedy), excerpt=None)

    def _choice_faults(self) -> Iterator[Problem]:
        choices = self._declaration.get("enum")
        if self._sensitive or self._type is None or not isinstance(choices, list):
            return
        for index, choice in enumerate(cast("list[Json]", choices)):
            if isinstance(choice, str | int | float) and (fault := self._form_fault(choice)):
                yield self._document.problem(("vars", self._name, "enum", index), *fault)

    def _at(self, key: str, message: str, remedy: str | None = None) -> Problem:
        return self._document.problem(("vars", self._name, key), message, remedy)

    def _fault(self, value: Json) -> tuple[str, str | None] | None:
        choices = self._declaration.get("enum")
        listed = isinstance(choices, list) and bool(choices) and not self._sensitive
        # A choice of the wrong form is told where it is offered, not where it is chosen.
        if listed and any(_same(value, choice) for choice in cast("list[Json]", choices)):
            return None
        fault = self._form_fault(value)
        if fault is None and listed:
            offered = ", ".join(map(shown, cast("list[Json]", choices)))
            return f"{shown(value)} is not allowed", f"Choose one of: {offered}."
        return fault

    def _form_fault(self, value: Json) -> tuple[str, str | None] | None:
        if not _FITS[str(self._type)](value):
            return f"expected {self._type}, got {shown(value)}", _type_remedy(value, str(self._type))
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            return f"longer than {LONGEST_VALUE:,} characters", None
        pattern = self._declaration.get("pattern")
        return self._misfit(pattern, value) if isinstance(pattern, str) else None

    def _misfit(self, pattern: str, value: Json) -> tuple[str, str] | None:
        try:
            fits = self._patience.matches(pattern, _as_text(value))
        except TooSlow as error:
            return "the pattern can't be tried on it", f"The pattern: {error}."
        except BadPattern:
            return None  # told at the pattern itself
        return None if fits else (f"{shown(value)} does not match the pattern {pattern}", _WHOLE)


def _is_reference(secret: Json) -> bool:
    return isinstance(secret, dict) and well_formed(cast("Mapping[str, Json]", secret))


def _as_text(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same(value: Json, choice: Json) -> bool:
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _type_remedy(value: Json, wanted: str) -> str | None:
    if isinstance(value, dict) and "secret" in value:
        return "Only a variable that is declared with sensitive: true can refer to a secret."
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
