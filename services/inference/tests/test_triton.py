"""Requests to the real engine in the real Triton, with tiny models in the formats of real ones."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tokenizers import Tokenizer

from mainspring_answers.domain import FinishReason, Sampling
from mainspring_answers.ports import Chunk
from mainspring_answers.triton import TritonClient
from mainspring_inference.adapters.triton_repository import ModelUse
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_testkit import reference

if TYPE_CHECKING:
    from conftest import Serve, TinyFiles

CONTEXT_TOKENS = 256
PROMPT = "Return the number"
GREEDY = Sampling(30, 0.0)
# A letter that every byte-level vocabulary has as one token.
LETTER = "~"


async def answer(client: TritonClient, model: str, prompt: str, sampling: Sampling, *, stream: bool = False) -> Chunk:
    """The last chunk with the whole text."""
    chunks = [chunk async for chunk in client.generate(model, prompt, sampling, stream=stream)]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    return Chunk("".join(c.text for c in chunks), last.finish_reason, last.input_tokens, last.output_tokens)


async def first_token(client: TritonClient, model: str, prompt: str, count: int) -> dict[int, float]:
    chunks = [chunk async for chunk in client.generate(model, prompt, Sampling(1, 0.0), top_logprobs=count)]
    return dict(chunks[-1].first_token_logprobs)


async def refused(client: TritonClient, model: str, prompt: str, sampling: Sampling) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        await answer(client, model, prompt, sampling)
    return caught.value


def tokens(folder: Path, text: str) -> Sequence[int]:
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return ids


async def test_a_streamed_answer_is_the_one_that_comes_whole(client: TritonClient, serve: Serve) -> None:
    model = await serve()
    whole = await answer(client, model, PROMPT, GREEDY)
    assert whole.text
    assert (whole.finish_reason, whole.input_tokens, whole.output_tokens) == (FinishReason.LENGTH, 5, 30)
    assert await answer(client, model, PROMPT, GREEDY, stream=True) == whole


async def test_i7_temperature_0_takes_the_most_probable_tokens_whatever_the_seed(
    client: TritonClient, serve: Serve, tiny: TinyFiles
) -> None:
    model = await serve()
    said = [await answer(client, model, PROMPT, Sampling(12, 0.0, seed=seed)) for seed in (None, 1, 2)]
    assert said[1:] == said[:-1]
    expected = reference.next_token_logprobs(tiny.llama_folder, tokens(tiny.llama_folder, PROMPT))
    tokenizer = Tokenizer.from_file(str(tiny.llama_folder / "tokenizer.json"))
    assert said[0].text.startswith(tokenizer.decode([int(expected.argmax())]))


async def test_i7_the_same_seed_gives_the_same_answer_and_another_seed_another(
    client: TritonClient, serve: Serve
) -> None:
    model = await serve()
    said = [await answer(client, model, PROMPT, Sampling(30, 1.0, seed=seed)) for seed in (1, 1, 2, 3)]
    assert said[0] == said[1]
    assert len({chunk.text for chunk in said}) > 1


@pytest.mark.parametrize("text", [" of all things in the list", "é🙂 \x00"])
async def test_i7_a_given_texts_probabilities_are_the_textbooks(
    client: TritonClient, serve: Serve, tiny: TinyFiles, text: str
) -> None:
    scored = await client.score(await serve(), PROMPT, text)
    before, wanted = tokens(tiny.llama_folder, PROMPT), tokens(tiny.llama_folder, text)
    assert ([token for token, _ in scored.tokens], scored.input_tokens) == (list(wanted), len(before))
    for place, (token, logprob) in enumerate(scored.tokens):
        expected = reference.next_token_logprobs(tiny.llama_folder, [*before, *wanted[:place]])
        assert logprob == pytest.approx(float(expected[token]), abs=0.3)


async def test_b4_a_text_to_score_is_bounded(client: TritonClient, serve: Serve) -> None:
    model = await serve(context_tokens=CONTEXT_TOKENS)
    assert len((await client.score(model, LETTER * (CONTEXT_TOKENS - 2), LETTER * 2)).tokens) == 2
    for prompt, text, reason, says in (
        (LETTER * (CONTEXT_TOKENS - 1), LETTER * 2, "CONTEXT_LENGTH_EXCEEDED", f"have {CONTEXT_TOKENS + 1} tokens"),
        (PROMPT, LETTER * 1_025, "INVALID_PROMPT", "at most 1024 are scored"),
    ):
        with pytest.raises(InvalidInput, match=says) as caught:
            await client.score(model, prompt, text)
        assert caught.value.reason == reason


async def test_a_model_that_takes_no_text_to_score_is_told_from_one_that_fails(
    client: TritonClient, serve: Serve
) -> None:
    # As Triton's vLLM backend, an embedding model declares no such tensor.
    with pytest.raises(PreconditionFailed) as caught:
        await client.score(await serve(kind=ModelUse.EMBED), PROMPT, "a")
    assert caught.value.reason == "SCORING_UNSUPPORTED"


async def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client: TritonClient, serve: Serve) -> None:
    model = await serve()
    whole = (await answer(client, model, PROMPT, GREEDY)).text
    # Over the border of two tokens, so that a part of it must be held back while a stream waits for the rest.
    stop = whole[4:8]
    for stream in (False, True):
        stopped = await answer(client, model, PROMPT, Sampling(30, 0.0, stop=("never said", stop)), stream=stream)
        assert (stopped.text, stopped.finish_reason) == (whole[: whole.index(stop)], FinishReason.STOP)
        assert stopped.output_tokens < 30


async def test_b4_a_prompt_may_fill_the_context_but_for_one_token(client: TritonClient, serve: Serve) -> None:
    model = await serve(context_tokens=CONTEXT_TOKENS)
    fits = await answer(client, model, LETTER * (CONTEXT_TOKENS - 1), GREEDY)
    assert (fits.finish_reason, fits.input_tokens, fits.output_tokens) == (FinishReason.LENGTH, CONTEXT_TOKENS - 1, 1)
    for length in (CONTEXT_TOKENS, CONTEXT_TOKENS + 1, 200_000):
        refusal = await refused(client, model, LETTER * length, GREEDY)
        assert refusal.reason == "CONTEXT_LENGTH_EXCEEDED"
        assert f"{length} tokens, the model takes {CONTEXT_TOKENS}" in refusal.message
    assert (await refused(client, model, "", GREEDY)).reason == "INVALID_PROMPT"
    assert await client.is_ready(model)


@pytest.mark.parametrize(
    "sampling", [Sampling(0), Sampling(10**9), Sampling(1, -1.0), Sampling(1, math.nan), Sampling(1, 1.0, 0.0)]
)
async def test_b4_sampling_without_sense_is_refused(client: TritonClient, serve: Serve, sampling: Sampling) -> None:
    assert (await refused(client, await serve(), PROMPT, sampling)).reason == "INVALID_SAMPLING"


@pytest.mark.parametrize(
    "prompt", ["漢字 é 🙂 👩‍👩‍👧", "‮right to left", "a" + "̈" * 50, "\x00\x01 \ud800", "\U000e0041​"]
)
async def test_b5_any_text_is_a_prompt(client: TritonClient, serve: Serve, tiny: TinyFiles, prompt: str) -> None:
    said = await answer(client, await serve(), prompt, GREEDY)
    assert said.finish_reason is not None
    if prompt.isprintable():
        assert said.input_tokens == len(tokens(tiny.llama_folder, prompt))


async def test_b5_a_letter_made_of_several_tokens_comes_whole(client: TritonClient, serve: Serve) -> None:
    model = await serve()
    seeds = [Sampling(200, 2.0, seed=seed) for seed in range(24)]
    said = await asyncio.gather(*(answer(client, model, PROMPT, sampling, stream=True) for sampling in seeds))
    # The vocabulary has no such letter as one token, so each was put together; U+FFFD stands for stray bytes.
    letters = {letter for chunk in said for letter in chunk.text if letter > "\x7f"} - {"\ufffd"}
    assert letters


async def test_the_engine_says_what_the_textbook_says_with_an_adapter_and_without(
    client: TritonClient, serve: Serve, tiny: TinyFiles
) -> None:
    size = Tokenizer.from_file(str(tiny.llama_folder / "tokenizer.json")).get_vocab_size()
    expected: dict[bool, np.ndarray] = {}
    for adapted in (False, True):
        model = await serve(adapter=tiny.adapter if adapted else None)
        for prompt in ("The mill", "<|im_start|>user\nhello<|im_end|>\n", PROMPT):
            said = await first_token(client, model, prompt, size)
            adapter = tiny.adapter_folder if adapted else None
            want = reference.next_token_logprobs(tiny.llama_folder, tokens(tiny.llama_folder, prompt), adapter)
            assert len(said) == size
            divergence = math.fsum(math.exp(p) * (p - said[token]) for token, p in enumerate(want.tolist()))
            assert divergence < 0.02
            assert max(said, key=lambda token: said[token]) == want.argmax()
            expected[adapted] = want
    # The adapter does change what is said, by far more than encoding the weights does.
    assert (np.exp(expected[False]) * (expected[False] - expected[True])).sum() > 0.1


async def test_asking_for_probabilities_does_not_change_the_answer(client: TritonClient, serve: Serve) -> None:
    model = await serve()
    plain = await answer(client, model, PROMPT, GREEDY)
    chunks = [chunk async for chunk in client.generate(model, PROMPT, GREEDY, stream=False, top_logprobs=3)]
    assert chunks[-1].text == plain.text
    logprobs = [logprob for _, logprob in chunks[-1].first_token_logprobs]
    assert len(logprobs) == 3
    assert logprobs == sorted(logprobs, reverse=True)
    assert logprobs[0] <= 0


async def test_vectors_are_those_of_the_textbook_in_the_order_of_the_texts(
    client: TritonClient, serve: Serve, tiny: TinyFiles
) -> None:
    model = await serve(kind=ModelUse.EMBED)
    texts = ["the mill stands", "River, zebra!", "", "Ünïcode é", "the mill stands"]
    vectors, count = await client.embed(model, texts)
    lengths: list[int] = []
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokens(tiny.bert_folder, text)
        lengths.append(len(ids))
        want = reference.embedding(tiny.bert_folder, ids)
        assert len(vector) == len(want) == 32
        assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-4)
        assert float(want @ np.array(vector)) > 0.9999
    assert count == sum(lengths)
    assert vectors[0] == pytest.approx(vectors[4], abs=1e-3)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    alone, _ = await client.embed(model, texts[1:2])
    assert alone[0] == pytest.approx(vectors[1], abs=1e-3)


async def test_b4_a_text_too_long_to_embed_is_refused_with_the_models_limit(client: TritonClient, serve: Serve) -> None:
    model = await serve(kind=ModelUse.EMBED)
    for words in (63, 300, 2_000):  # One more than fits beside [CLS] and [SEP]; more than a batch; far more.
        with pytest.raises(InvalidInput, match=f"a text has {words + 2} tokens, the model takes 64; shorten") as caught:
            await client.embed(model, ["the mill", "mill " * words])
        assert caught.value.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert await client.embed(model, []) == ([], 0)
    assert len((await client.embed(model, ["mill " * 62] * 256))[0]) == 256
    with pytest.raises(InvalidInput, match="257 texts; send 1 to 256"):
        await client.embed(model, ["mill"] * 257)


async def test_eight_streams_are_answered_together(client: TritonClient, serve: Serve, slow_llama: Path) -> None:
    model = await serve(slow_llama, context_tokens=256)
    begun, ended, begun_before_an_end = list[int](), list[Chunk](), 0

    async def stream(number: int) -> None:
        nonlocal begun_before_an_end
        async for chunk in client.generate(model, f"{LETTER * number}a", Sampling(100, 0.0)):
            if number not in begun:
                begun.append(number)
                begun_before_an_end += not ended
            if chunk.finish_reason is not None:
                ended.append(chunk)

    await asyncio.gather(*(stream(number) for number in range(8)))
    assert begun_before_an_end == 8
    assert {chunk.input_tokens for chunk in ended} == set(range(1, 9))
    assert all(chunk.finish_reason in {FinishReason.LENGTH, FinishReason.STOP} for chunk in ended)


async def test_more_requests_than_slots_wait_and_are_answered(client: TritonClient, serve: Serve) -> None:
    model = await serve(slots=2)
    said = await asyncio.gather(*(answer(client, model, LETTER * n, Sampling(5, 0.0)) for n in range(1, 41)))
    assert [chunk.input_tokens for chunk in said] == list(range(1, 41))
