"""Holds a rendered plan against the schema and says every violation as people would."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from planrunner.loading import codes
from planrunner.loading.document import Document, Keys, shown, suggestion
from planrunner.loading.outline import NOUNS
from planrunner.loading.places import at, elsewhere
from planrunner.loading.schema import rendered_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jsonschema.exceptions import ValidationError

    from planrunner.loading.outline import Schema
    from planrunner.model import Json, Problem

# An enum can't stand where a mapping may too: there a pattern lists the words.
_WORDS = re.compile(r"\^\(([a-z_]+(?:\|[a-z_]+)*)\)\$")
_LONGEST_ADVICE = 80
_TYPE_NAMES = {"object": "mapping", "array": "list"}
_SHAPES = {"mapping": "Write KEY: VALUE lines.", "list": "Begin each entry with a dash."}
_CODES = {
    "type": codes.WRONG_TYPE,
    "enum": codes.NOT_A_CHOICE,
    "const": codes.NOT_A_CHOICE,
    "pattern": codes.WRONG_FORM,
}
_YES_AND_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def violations(document: Document, tree: Json, told: frozenset[Keys]) -> list[Problem]:
    """Every place where ``tree`` departs from the schema, but for those whose fault is told already."""
    errors = [e for e in _validator().iter_errors(tree) if tuple(e.absolute_path) not in told]
    # What is of the wrong type is also not in a list of choices; once is enough.
    mistyped = {tuple(e.absolute_path) for e in errors if e.validator == "type"}
    kept = (
        e
        for e in errors
        if (e.validator == "type" or tuple(e.absolute_path) not in mistyped)
        # An empty text is told as that, not also as one of the wrong form.
        and not (e.validator == "pattern" and e.instance == "")
    )
    return [problem for error in kept for problem in _problems(document, error)]


def departures(schema: Schema, document: Document, tree: Json, *, advising: bool = True) -> list[Problem]:
    """Every place where a tree departs from a schema of its own; ``advising``: keys of plans may be misplaced in it."""
    found = _made(schema).iter_errors(tree)
    return [problem for error in found for problem in _problems(document, error, advising=advising)]


@cache
def _validator() -> Draft202012Validator:
    return _made(rendered_schema())


def _made(schema: Schema) -> Draft202012Validator:
    # To JSON Schema 4.0 and true are nearly integers; to a step's option they are not.
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    make: Any = extend  # it has no types
    return cast("Draft202012Validator", make(Draft202012Validator, type_checker=checker)(schema))


def _problems(document: Document, error: ValidationError, *, advising: bool = True) -> Iterator[Problem]:
    keys = tuple(error.absolute_path)
    if "propertyNames" in error.schema_path:
        name = str(error.instance)
        text = f"expected {_noun(error)}"
        advice = _renamed(name, str(error.validator_value))
        yield document.problem_with_name((*keys, name), text, advice, codes.WRONG_FORM)
    elif error.validator == "additionalProperties":
        yield from _unknown(document, keys, error, advising=advising)
    elif error.validator == "required":
        yield from _missing(document, keys, error)
    else:
        message, remedy = _SAYINGS.get(str(error.validator), _otherwise)(error)
        told = _template_remedy(document, keys, error) or remedy or _example(error)
        yield document.problem(keys, message, told, _CODES.get(str(error.validator), codes.OUT_OF_BOUNDS))


def _renamed(name: str, pattern: str) -> str:
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789")
    return f"Write {plain}." if re.search(pattern, plain) else "Rename it."


def _example(error: ValidationError) -> str | None:
    examples = _schema(error).get("examples", [])
    shownable = [str(value) for value in examples if isinstance(value, str | int | float)]
    return f"For example: {', '.join(map(_lowered, shownable))}" if shownable else None


def _lowered(text: str) -> str:
    return text.lower() if text in {"True", "False"} else text


def _schema(error: ValidationError) -> dict[str, Any]:
    return cast("dict[str, Any]", error.schema)


def _unknown(document: Document, keys: Keys, error: ValidationError, *, advising: bool) -> Iterator[Problem]:
    known = _schema(error).get("properties", {})
    for name in cast("dict[str, Json]", error.instance):
        if name not in known:
            misplaced = elsewhere(document.tree, keys, name) if advising else None
            remedy = misplaced or suggestion(name, known, label="Known here")
            text = f"unknown key {shown(name)}"
            yield document.problem_with_name((*keys, name), text, remedy, codes.UNKNOWN_KEY)


def _missing(document: Document, keys: Keys, error: ValidationError) -> Iterator[Problem]:
    # The library reports each missing key on its own and names it in its message only.
    present = cast("dict[str, Json]", error.instance)
    wanted = cast("list[str]", error.validator_value)
    name = next(n for n in wanted if n not in present and error.message.startswith(repr(n)))
    about = _schema(error).get("properties", {}).get(name, {})
    example = about.get("const") or next(iter(about.get("examples", [])), None)
    lead = f"{about['description']} " if "description" in about else ""
    remedy = f"{lead}For example {name}: {example}" if example is not None else lead.strip() or None
    yield document.problem_with_name(keys, f'the key "{name}" is missing', remedy, codes.MISSING_KEY)


def _template_remedy(document: Document, keys: Keys, error: ValidationError) -> str | None:
    written = at(document.tree, keys)
    if written == error.instance or not isinstance(written, str):
        return None
    wanted = _types(error) if error.validator == "type" else []
    typed = f" Give the variable type: {wanted[0]}." if wanted else ""
    return f"That is what the template came to.{typed}"


def _got(error: ValidationError) -> str:
    # What stands where a reference to a secret belongs may be the secret.
    secret = {"password", "secret"} & set(error.absolute_path) and isinstance(error.instance, str)
    return "a text" if secret else shown(cast("Json", error.instance))


def _types(error: ValidationError) -> list[str]:
    value = cast("str | list[str]", error.validator_value)
    wanted = [value] if isinstance(value, str) else value
    return [_TYPE_NAMES.get(name, name) for name in wanted]


def _wrong_type(error: ValidationError) -> tuple[str, str | None]:
    choices = _schema(error).get("enum")
    if (only := _schema(error).get("const")) is not None and "password" not in error.absolute_path:
        return f"expected {shown(only)}, got {_got(error)}", f"Write {only}."
    if choices:
        return f"expected one of {', '.join(map(str, choices))}, got {_got(error)}", None
    wanted = _types(error)
    noun = NOUNS.get(_schema(error).get("pattern", ""), " or ".join(wanted))
    return f"expected {noun}, got {_got(error)}", _type_remedy(error, wanted)


def _type_remedy(error: ValidationError, wanted: list[str]) -> str | None:
    value = error.instance
    last = error.absolute_path[-1] if error.absolute_path else ""
    if last == "rds_iam":
        return "Write rds_iam: true, or take it out."
    if last in {"password", "secret"}:
        return "Refer to where the password is kept, such as password: {secret: {env: SOURCE_PASSWORD}}"
    if value is None or (len(error.absolute_path) == 2 and error.absolute_path[0] == "vars"):
        return _nothing_remedy(error)
    if isinstance(value, str):
        return _text_remedy(value, wanted[0])
    if isinstance(value, int | float):
        return _number_remedy(value, wanted[0], _schema(error).get("pattern", ""))
    return _SHAPES.get(wanted[0])


def _nothing_remedy(error: ValidationError) -> str:
    path, value = error.absolute_path, cast("Json", error.instance)
    if not path:
        return "Start with: planrunner init"
    if len(path) == 2 and path[0] == "vars":
        return f"Write {path[1]}: {'{type: string}' if value is None else f'{{default: {shown(value)}}}'}"
    return "Give it a value or leave the key out."


def _number_remedy(value: float, wanted: str, pattern: str) -> str | None:
    if wanted == "string":
        return "Put it in quotes." if re.search(pattern, str(value)) else None
    if wanted == "integer" and isinstance(value, float) and value.is_integer():
        return f"Write {int(value)}."
    return _SHAPES.get(wanted)


def _text_remedy(value: str, wanted: str) -> str | None:
    if wanted == "integer" and value.strip().lstrip("-").isdigit():
        return f"Write {value.strip()} without quotes."
    if wanted == "list" and value.isprintable() and len(value) <= _LONGEST_ADVICE:
        return f"Write [{', '.join(value.split())}]."
    if wanted != "boolean":
        return _SHAPES.get(wanted)
    meant = _YES_AND_NO.get(value.lower(), value.lower())
    return f"Write {meant}." if meant in {"true", "false"} else "Write true or false."


def _not_listed(error: ValidationError) -> tuple[str, str]:
    known = [str(value) for value in cast("list[Json]", error.validator_value)]
    remedy = suggestion(str(error.instance), known, label="Known here")
    return f"unknown value {_got(error)}", remedy


def _not_constant(error: ValidationError) -> tuple[str, str]:
    wanted = shown(cast("Json", error.validator_value))
    told = f"expected {wanted}, got {_got(error)}"
    if tuple(error.absolute_path) == ("kind",) and error.instance == "Fleet":
        return told, "A fleet is checked by: planrunner fleet lint FLEET"
    return told, f"Write {wanted.strip(chr(34))}."


def _noun(error: ValidationError) -> str:
    pattern = str(error.validator_value)
    words = _WORDS.fullmatch(pattern)
    if words is not None:
        return f"one of {', '.join(words[1].split('|'))}"
    title = str(_schema(error).get("title", "value")).lower()
    return NOUNS.get(pattern, f"a {title} that matches {pattern}")


def _no_match(error: ValidationError) -> tuple[str, str | None]:
    examples = _schema(error).get("examples", [])
    remedy = f"For example: {', '.join(map(str, examples))}" if examples else None
    return f"expected {_noun(error)}, got {_got(error)}", remedy


def _out_of_range(error: ValidationError) -> tuple[str, str | None]:
    schema = _schema(error)
    low, high = schema.get("minimum"), schema.get("maximum")
    wanted = f"at least {low}" if high is None else f"{low} to {high}"
    return f"expected {wanted}, got {_got(error)}", None


def _empty(error: ValidationError) -> tuple[str, str | None]:
    return "this is empty", str(_schema(error).get("description", "")) or None


def _too_long(error: ValidationError) -> tuple[str, str | None]:
    return f"longer than {error.validator_value} characters", None


def _too_many(error: ValidationError) -> tuple[str, str]:
    return f"expected one of {', '.join(_schema(error)['properties'])}, got several", "Keep one of them."


def _twice(error: ValidationError) -> tuple[str, str | None]:
    values = cast("list[Json]", error.instance)
    double = next((v for i, v in enumerate(values) if v in values[:i]), None)
    return f"{shown(double)} is given twice", "Keep one of them."


def _otherwise(error: ValidationError) -> tuple[str, str | None]:
    return f"does not fit the schema ({error.validator})", None


_SAYINGS: dict[str, Callable[[ValidationError], tuple[str, str | None]]] = {
    "type": _wrong_type,
    "enum": _not_listed,
    "const": _not_constant,
    "pattern": _no_match,
    "minimum": _out_of_range,
    "maximum": _out_of_range,
    "minItems": _empty,
    "minLength": _empty,
    "minProperties": _empty,
    "uniqueItems": _twice,
    "maxLength": _too_long,
    "maxProperties": _too_many,
}
