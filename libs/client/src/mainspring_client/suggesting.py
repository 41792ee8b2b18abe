"""Suggestions on request: a served model answers what an annotation queue asks of people, before they do.

Only an answer that is one of the queue's labels becomes a suggestion. How sure one is, is how probable the model finds
its own answer.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import annotation_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring_client.client import Mainspring
from mainspring_svckit.errors import InvalidInput

CONCURRENCY = 8
_ITEMS_AT_ONCE = 32
"""Items after which what the model said is stored, so that little is asked twice when somebody interrupts."""
_MAX_OUTPUT_TOKENS = 128
_AROUND = " \t\r\n\"'`*._\u2018\u2019\u201c\u201d"
_PROMPT = "{guidelines}Label this item:\n\n{item}\n\nAnswer with {wanted}, and with nothing else."
_PREFERRED = {
    "1": annotation_pb2.Label.PREFERRED_FIRST,
    "2": annotation_pb2.Label.PREFERRED_SECOND,
    "neither": annotation_pb2.Label.PREFERRED_TIE,
}
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Suggested:
    """What came of it.

    Attributes:
        asked: Items that the model was asked about.
        suggested: Those that have its suggestion now.
        unusable: Those whose answer is none of the labels.
        refused: Those that the model could not be asked about, such as too long ones.
        labelled: Those that somebody labelled meanwhile.
        known: Items that were not asked about, since they had a suggestion.
        example: The first answer that was none of the labels, or why the model could not be asked; empty without one.
    """

    asked: int = 0
    suggested: int = 0
    unusable: int = 0
    refused: int = 0
    labelled: int = 0
    known: int = 0
    example: str = ""


async def suggest(
    mainspring: Mainspring,
    queue: str,
    model: str,
    *,
    again: bool = False,
    limit: int = 0,
    concurrency: int = CONCURRENCY,
    on_progress: OnProgress | None = None,
) -> Suggested:
    """Asks a model for the labels of a queue's items that nobody has labelled, and stores what it says.

    Gold questions are among them: without a suggestion they could be told from the others.

    Args:
        mainspring: The client.
        queue: The queue.
        model: Model, or one of its versions.
        again: Whether items that have a suggestion are asked about too.
        limit: Most items to ask about; 0 for all.
        concurrency: Items asked about at a time.
        on_progress: Hears how many are done, of how many.

    Raises:
        InvalidInput: QUEUE_WITHOUT_LABELS, it asks for texts; NOTHING_SUGGESTED, no answer was a label.
        MainspringError: The model cannot be asked now; what was suggested until then is kept.
    """
    asked_for = await mainspring.annotation.queue(queue)
    wanted = _wanted(asked_for)
    items, known = await _waiting(mainspring, queue, limit, again=again)
    suggested = labelled = 0
    unusable, refused = list[str](), list[str]()
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        part = items[start : start + _ITEMS_AT_ONCE]
        prompts = [_prompt(asked_for, wanted, item) for item in part]
        said = await _answers(mainspring, model, prompts, asked_for.label_schema, concurrency)
        found = {i.name: s for i, s in zip(part, said, strict=True) if isinstance(s, annotation_pb2.Suggestion)}
        stored = await mainspring.annotation.suggest(queue, found)
        suggested, labelled = suggested + stored, labelled + len(found) - stored
        unusable += [one for one in said if isinstance(one, str)]
        refused += [one.message for one in said if isinstance(one, InvalidInput)]
        if on_progress is not None:
            on_progress(start + len(part), len(items))
    example = next(iter((*unusable, *refused)), "")[:200]
    if items and len(unusable) + len(refused) == len(items):
        message = (
            f"{model} gave no answer that is a label of {queue} (the first: {example!r}); ask a model that follows"
            " instructions, or have the guidelines say what an answer is"
        )
        raise InvalidInput(message, reason="NOTHING_SUGGESTED")
    return Suggested(len(items), suggested, len(unusable), len(refused), labelled, known, example)


def label_of(schema: annotation_pb2.LabelSchema, text: str) -> annotation_pb2.Label | None:
    """The label that an answer is; None when it is none. Case, quotes and a full stop do not count."""
    said = text.strip(_AROUND)
    match schema.WhichOneof("kind"):
        case "choice":
            names = {name.casefold(): name for name in schema.choice.choices}
            whole = [said] if said.casefold() in names else re.split(r"[,;\n]", said)
            parts = [part.strip(_AROUND).casefold() for part in whole]
            if not set(parts) <= names.keys() or (len(parts) > 1 and not schema.choice.several):
                return None
            return annotation_pb2.Label(choices=dict.fromkeys(names[part] for part in parts))
        case "rating":
            right = said.isascii() and said.isdigit() and schema.rating.worst <= int(said) <= schema.rating.best
            return annotation_pb2.Label(rating=int(said)) if right else None
        case "preference":
            preferred = _PREFERRED.get(said.casefold())
            return annotation_pb2.Label(preferred=preferred) if preferred is not None else None
        case _:
            return None


async def _waiting(
    mainspring: Mainspring, queue: str, limit: int, *, again: bool
) -> tuple[list[annotation_pb2.AnnotationItem], int]:
    """Items to ask about, and how many there are with a suggestion."""
    items, known = list[annotation_pb2.AnnotationItem](), 0
    async for item in mainspring.annotation.items(queue, annotation_pb2.AnnotationItem.STATE_OPEN):
        if any(one.HasField("label") for one in item.annotations):
            continue
        if item.HasField("suggestion") and not again:
            known += 1
            continue
        items.append(item)
        if len(items) == limit:
            break
    return items, known


async def _answers(
    mainspring: Mainspring,
    model: str,
    prompts: Sequence[str],
    schema: annotation_pb2.LabelSchema,
    concurrency: int,
) -> Sequence[annotation_pb2.Suggestion | InvalidInput | str]:
    """For each prompt a suggestion, or why the model could not be asked, or its answer that is no label."""
    slots = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> annotation_pb2.Suggestion | InvalidInput | str:
        async with slots:
            try:
                return await _answer(mainspring, model, prompt, schema)
            except InvalidInput as err:
                return err

    tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _answer(
    mainspring: Mainspring, model: str, prompt: str, schema: annotation_pb2.LabelSchema
) -> annotation_pb2.Suggestion | str:
    sampling = answer_pb2.SamplingParameters(temperature=0, max_output_tokens=_MAX_OUTPUT_TOKENS)
    answer = await mainspring.inference.answer(model, prompt, sampling=sampling)
    label = label_of(schema, answer.text)
    if label is None:
        return answer.text
    tokens = await mainspring.inference.score(model, prompt, answer.text)
    confidence = math.exp(min(0.0, sum(token.logprob for token in tokens))) if tokens else 0.0
    return annotation_pb2.Suggestion(label=label, confidence=confidence, source=answer.model_version or model)


def _prompt(queue: annotation_pb2.AnnotationQueue, wanted: str, item: annotation_pb2.AnnotationItem) -> str:
    roles = chat_pb2.ChatMessage.Role
    said = [f"{roles.Name(m.role).removeprefix('ROLE_').lower()}: {m.content}" for m in item.messages]
    said += [f"answer {number}: {text}" for number, text in enumerate(item.candidates, 1)]
    guidelines = f"{queue.guidelines.strip()}\n\n" if queue.guidelines.strip() else ""
    return _PROMPT.format(guidelines=guidelines, item="\n\n".join(said), wanted=wanted)


def _wanted(queue: annotation_pb2.AnnotationQueue) -> str:
    """What an answer is, in words."""
    schema = queue.label_schema
    match schema.WhichOneof("kind"):
        case "choice":
            choices = ", ".join(schema.choice.choices)
            several = "one or more of these labels, with commas between them"
            return f"{several if schema.choice.several else 'exactly one of these labels'}: {choices}"
        case "rating":
            return f"a whole number from {schema.rating.worst} (worst) to {schema.rating.best} (best)"
        case "preference":
            return "1 if answer 1 is better, 2 if answer 2 is better, or neither"
        case _:
            message = (
                f"{queue.name} asks for texts, of which there is no list; suggestions are for choices, ratings and"
                " preferences, others come with 'mainspring annotate add'"
            )
            raise InvalidInput(message, reason="QUEUE_WITHOUT_LABELS")
