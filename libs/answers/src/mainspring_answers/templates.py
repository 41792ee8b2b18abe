"""Chat templates, in Jinja's immutable sandbox: a template comes with a model's files and is not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mainspring_answers.domain import Route
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.values import Message

MAX_PROMPT_CHARACTERS = 4_000_000


class TemplateRefused(Exception):
    """The template says that it does not take such a conversation."""


class JinjaTemplates:
    """`Templates` for templates as Hugging Face tokenizers carry them."""

    def render(self, route: Route, messages: Sequence[Message]) -> str:
        if not route.chat_template:
            message = f"{route.model_version} has no chat template; ask with raw_prompt"
            raise PreconditionFailed("NO_CHAT_TEMPLATE", message, {"modelVersion": route.model_version})
        try:
            prompt = _compiled(route.chat_template).render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=True,
                bos_token=route.bos_token,
                eos_token=route.eos_token,
            )
        except TemplateRefused as err:
            raise InvalidInput(
                f"the model does not take such a conversation: {err}", reason="CONVERSATION_REFUSED"
            ) from err
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            RecursionError,
        ) as err:
            message = f"the chat template of {route.model_version} does not work: {type(err).__name__}"
            raise PreconditionFailed("CHAT_TEMPLATE_BROKEN", message, {"modelVersion": route.model_version}) from err
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise InvalidInput("the prompt is too long", reason="CONTEXT_LENGTH_EXCEEDED")
        return prompt


@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    functions: Any = environment.globals  # Its type knows Jinja's own functions only.
    functions["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(str(message)[:200])
