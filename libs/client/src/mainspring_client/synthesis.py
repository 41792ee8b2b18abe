"""Synthetic rows, on request: a model rewrites prompts, or thinks of new ones and answers them.

What it makes goes through the dataset's own recipe as a source that is marked as synthetic: it is filtered as
everything else, is learned from, and never measured on.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from mainspring.common.v1 import chat_pb2
from mainspring.data.v1 import comparison_pb2, dataset_pb2, ingestion_pb2, recipe_pb2
from mainspring.inference.v1 import answer_pb2
from mainspring_client.client import Mainspring
from mainspring_svckit.errors import InvalidInput

MEDIA_TYPE = "application/vnd.mainspring.synthetic+jsonl"
_EXAMPLES = 3
_LIST_MARK = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s*")
_PARAPHRASE = (
    "Rewrite the following message in other words. Keep its meaning, its language and all of its facts. Answer with the"
    " rewritten message only.\n\n{prompt}"
)
_INSTRUCTION = (
    "Here are requests that people made:\n\n{examples}\n\nWrite one more request of the same kind about something else."
    " Answer with the request only."
)
OnProgress = Callable[[int, int], None]


class Method(StrEnum):
    """How rows are made."""

    PARAPHRASE = "paraphrase"
    """The prompt of a row in other words, with the row's own answer."""
    INSTRUCTIONS = "instructions"
    """A new prompt like those of some rows, answered by the model (Wang et al. 2023)."""


async def synthesize(
    mainspring: Mainspring,
    version: str,
    model: str,
    method: Method,
    count: int,
    *,
    seed: int = 1,
    on_progress: OnProgress | None = None,
) -> ingestion_pb2.Ingestion:
    """Makes rows from a version's train split and asks for a version with them; follow it with `watch_ingestion`.

    Rows that a model wrote before are no examples.

    Args:
        mainspring: The client.
        version: The version whose rows are the examples, and to whose sources the rows are added.
        model: Model, or one of its versions, that writes.
        method: How.
        count: Rows to ask for, several of a row when there are fewer; what the model does not answer usefully, and what
            the recipe refuses, is missing.
        seed: Of sampling.
        on_progress: Hears how many are done, of how many.

    Raises:
        InvalidInput: NOTHING_SYNTHESIZED, or VERSION_IS_A_SUCCESSOR.
    """
    project = version.split("/")[1]
    found = await mainspring.data.version(version)
    if found.supersedes:
        message = f"{version} is what an erasure left; import its sources anew, and make rows from that version"
        raise InvalidInput(message, reason="VERSION_IS_A_SUCCESSOR")
    sources: Sequence[ingestion_pb2.Source] = ()
    async for ended in mainspring.data.watch_ingestion(found.ingestion):
        sources = ended.sources
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder) / f"synthetic-{method.value}.jsonl", 0
        with path.open("w", encoding="utf-8") as file:
            async for row in _rows(mainspring, version, model, method, count, seed, on_progress):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                made += 1
        if not made:
            message = f"{model} gave no usable text; ask a model that follows instructions"
            raise InvalidInput(message, reason="NOTHING_SYNTHESIZED")
        artifact = await mainspring.data.upload(project, path)
    artifact.media_type = MEDIA_TYPE
    source = ingestion_pb2.Source(
        artifact=artifact,
        format=ingestion_pb2.Source.FORMAT_JSONL,
        columns=recipe_pb2.ColumnMapping(messages_column="messages", group_column="group"),
    )
    return await mainspring.data.ingest(found.ingestion_recipe, [*sources, source])


async def _rows(
    mainspring: Mainspring,
    version: str,
    model: str,
    method: Method,
    count: int,
    seed: int,
    on_progress: OnProgress | None,
) -> AsyncIterator[dict[str, Any]]:
    """What the model makes of the version's rows, one after the other, from the first again when there are too few."""
    done, begun, recent = 0, -1, list[comparison_pb2.DatasetRow]()
    while begun < done < count:
        begun = done
        async for row in mainspring.dataset_versions.rows(version, dataset_pb2.SPLIT_TRAIN):
            if done == count:
                return
            # Plain text has no prompt, and what a model wrote is no example.
            if len(row.messages) < 2 or row.synthetic:
                continue
            recent = [*recent, row][-_EXAMPLES:]
            made = (
                await _paraphrased(mainspring, model, row, seed + done)
                if method is Method.PARAPHRASE
                else await _invented(mainspring, model, recent, seed + done)
            )
            done += 1
            if on_progress is not None:
                on_progress(done, count)
            if made is not None:
                yield made


async def _paraphrased(
    mainspring: Mainspring, model: str, row: comparison_pb2.DatasetRow, seed: int
) -> dict[str, Any] | None:
    prompt = row.messages[-2].content
    text = await _text(mainspring, model, _PARAPHRASE.format(prompt=prompt), seed)
    if not text or text.casefold() == prompt.casefold():
        return None
    before = [_message(message) for message in row.messages[:-2]]
    messages = [*before, {"role": "user", "content": text}, _message(row.messages[-1])]
    return {"messages": messages, "group": row.group}


async def _invented(
    mainspring: Mainspring, model: str, rows: Sequence[comparison_pb2.DatasetRow], seed: int
) -> dict[str, Any] | None:
    examples = "\n".join(f"- {row.messages[-2].content}" for row in rows)
    prompt = _LIST_MARK.sub("", await _text(mainspring, model, _INSTRUCTION.format(examples=examples), seed))
    if not prompt or any(prompt.casefold() == row.messages[-2].content.casefold() for row in rows):
        return None
    answer = await _text(mainspring, model, prompt, seed)
    if not answer:
        return None
    system = [_message(m) for m in rows[-1].messages[:1] if m.role == chat_pb2.ChatMessage.ROLE_SYSTEM]
    messages = [*system, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "group": prompt}


async def _text(mainspring: Mainspring, model: str, prompt: str, seed: int) -> str:
    sampling = answer_pb2.SamplingParameters(temperature=0.8, seed=seed, max_output_tokens=512)
    return (await mainspring.inference.answer(model, prompt, sampling=sampling)).text.strip()


def _message(message: chat_pb2.ChatMessage) -> dict[str, str]:
    role = chat_pb2.ChatMessage.Role.Name(message.role).removeprefix("ROLE_").lower()
    return {"role": role, "content": message.content}
