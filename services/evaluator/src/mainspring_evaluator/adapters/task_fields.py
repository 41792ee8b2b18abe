"""What a task of lm-evaluation-harness makes of a row: its question, its choices, what is right.

Read as `ConfigurableTask` of lm-evaluation-harness 0.4.13 reads them (`doc_to_text`, `doc_to_choice`, `doc_to_target`).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from mainspring_evaluator.adapters.task_rows import texts

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment


@dataclass(frozen=True)
class Target:
    """What is right.

    Attributes:
        texts: The right answers, as they stand.
        places: Which choices they are; empty where there are none, or an answer is none of them.
    """

    texts: tuple[str, ...]
    places: tuple[int, ...] = ()


def rendered(field: str, template: Any, row: dict[str, Any]) -> str:
    """A column that a task names, or its template."""
    if not isinstance(template, str):
        raise ValueError(f"{field} must be a column or a template")
    if template not in row:
        return by_template(field, template, row)
    if row[template] is None:
        raise ValueError(f"{template} is empty")
    return str(row[template])


def by_template(field: str, template: str, row: dict[str, Any]) -> str:
    """A template with a row's columns, in a sandbox."""
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(row)
    except TemplateError as err:
        raise ValueError(f"the template {field} cannot be rendered: {err}") from err


def choices_of(choices: Any, row: dict[str, Any]) -> tuple[str, ...]:
    """What can be chosen: a list, the values of a mapping, a column with a list, or a template that writes one."""
    value: Any = choices
    if isinstance(choices, str):
        value = row[choices] if choices in row else ast.literal_eval(by_template("doc_to_choice", choices, row))
    elif isinstance(choices, dict):
        value = list[Any](choices.values())  # type: ignore[reportUnknownArgumentType]
    if not isinstance(value, list | tuple):
        raise ValueError("doc_to_choice must be a list, or a column with one")
    return tuple(texts("doc_to_choice", list[Any](value)))  # type: ignore[reportUnknownArgumentType]


def target_of(target: Any, choices: Sequence[str] | None, row: dict[str, Any], *, untyped: bool = False) -> Target:
    """The right answers: a column, a template, or values. Where there are choices a number chooses one, and so do the
    digits that a template writes; `untyped` says that columns hold text alone, so that theirs do too.
    """
    value, written = target, False
    if isinstance(target, str):
        written = target not in row
        value = _literal(by_template("doc_to_target", target, row)) if written else row[target]
    values: list[Any] = list(value) if isinstance(value, list) else [value]  # type: ignore[arg-type]
    if choices is None:
        return Target(tuple(texts("doc_to_target", values)))
    places = [_place(each, choices, digits_choose=written or untyped) for each in values]
    said = [each if place is None else choices[place] for each, place in zip(values, places, strict=True)]
    known = tuple(place for place in places if place is not None)
    return Target(tuple(texts("doc_to_target", said)), known if len(known) == len(places) else ())


def _literal(text: str) -> Any:
    """A list that a template wrote; anything else is text."""
    if len(text) >= 2 and text[0] == "[" and text[-1] == "]":
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
    return text


def _place(value: Any, choices: Sequence[str], *, digits_choose: bool) -> int | None:
    """Which of the choices a value is; None when it is a text that is none of them."""
    if isinstance(value, str):
        digits = value.strip().isdigit()
        if value in choices and not (digits and digits_choose):
            return choices.index(value)
        if not digits:
            return None
    elif not isinstance(value, int):
        return None
    place = int(value)
    if not 0 <= place < len(choices):
        raise ValueError(f"the target {place} is none of its {len(choices)} choices")
    return place


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
