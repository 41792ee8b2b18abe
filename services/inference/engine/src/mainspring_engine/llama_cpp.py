"""llama.cpp as an engine, in this process, through xllamacpp.

One server object computes all requests of a model together (continuous batching). It also opens an HTTP door that
only we need, to turn text into tokens; it gets an abstract socket of a random name and a random key, so no port is
open and nothing is left behind.
"""

from __future__ import annotations

import base64
import importlib
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mainspring_engine import door
from mainspring_engine.engine import (
    SCORED_TOKENS_MAX,
    Cancelled,
    Embedded,
    EngineError,
    FinishReason,
    Generated,
    OnText,
    Reason,
    Sampling,
    Scored,
)
from mainspring_engine.spec import Kind, ModelSpec

# With more threads than free cores, a spinning thread keeps the one that it waits for from running.
_SPIN_COUNT = "3000"
# Tokens of a prompt that are computed in one go. After each the engine can be told to stop, and other requests get
# their turn.
_BATCH_TOKENS = 256
_CANCEL_CHECK_S = 0.1
_WHOLE_VOCABULARY = 1 << 20
# The largest seed means "random" to llama.cpp.
_SEEDS = (1 << 32) - 1
# How llama.cpp says that a text to embed does not fit into a batch; it has no type of its own.
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process")


class LlamaCppEngine:
    """One model, with or without an adapter, in memory until the process ends."""

    def __init__(self, spec: ModelSpec) -> None:
        """Loads the model; takes about a quarter of a second for 145 MB that were read before.

        Raises:
            EngineError: ENGINE_FAILED, llama.cpp cannot load the files.
        """
        for path in filter(None, (spec.gguf, spec.adapter)):
            if not Path(path).is_file():
                raise EngineError(Reason.ENGINE_FAILED, f"{path} does not exist; fetch the model's files again")
        # Read by the OpenMP runtime when it is loaded, which importing xllamacpp does.
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
        llama: Any = importlib.import_module("xllamacpp")
        self._context_tokens = spec.context_tokens
        # Of Linux's abstract sockets, which are no files; llama.cpp takes a host for a socket by the ending.
        address = f"\0mainspring-engine-{secrets.token_hex(16)}.sock"
        self._door = door.Door(address, secrets.token_hex(32))
        try:
            self._server = llama.Server(_parameters(llama, spec, self._door))
            self._bos = self._door.text_put_before_prompts() if spec.kind is Kind.GENERATE else ""
        except (RuntimeError, OSError) as err:
            message = f"llama.cpp cannot load {Path(spec.gguf).name} ({err}); what it says stands in Triton's log"
            raise EngineError(Reason.ENGINE_FAILED, message) from err

    def generate(self, prompt: str, sampling: Sampling, on_text: OnText, cancelled: Cancelled) -> Generated:
        if not prompt:
            raise EngineError(Reason.INVALID_PROMPT, "the prompt is empty; send at least one character")
        if self._bos and prompt.startswith(self._bos):
            prompt = prompt.removeprefix(self._bos)  # The tokenizer puts it there again.
        first_token = self._first_token(prompt, sampling.logprobs) if sampling.logprobs else ()
        watch = _Watch(on_text, cancelled)
        self._server.handle_completions({"prompt": prompt, **_request(sampling)}, watch.take)
        return watch.result(first_token)

    def score(self, prompt: str, continuation: str, cancelled: Cancelled) -> Scored:
        if not prompt or not continuation:
            raise EngineError(Reason.INVALID_PROMPT, "prompt or text is empty; send at least one character each")
        if self._bos and prompt.startswith(self._bos):
            prompt = prompt.removeprefix(self._bos)
        try:
            before = self._door.tokens(prompt, special=True)
            wanted = self._door.tokens(continuation, special=False)
        except OSError as err:
            raise EngineError(Reason.ENGINE_FAILED, f"llama.cpp does not split the text into tokens ({err})") from err
        if len(wanted) > SCORED_TOKENS_MAX:
            told = f"the text has {len(wanted)} tokens, at most {SCORED_TOKENS_MAX} are scored; shorten it"
            raise EngineError(Reason.INVALID_PROMPT, told)
        if len(before) + len(wanted) > self._context_tokens:
            told = f"prompt and text have {len(before) + len(wanted)} tokens, the model takes {self._context_tokens}"
            raise EngineError(Reason.CONTEXT_LENGTH_EXCEEDED, f"{told}; shorten them")
        scored: list[tuple[int, float]] = []
        for place, token in enumerate(wanted):
            if cancelled():
                raise EngineError(Reason.ENGINE_FAILED, "nobody waits for the probabilities any more")
            scored.append((token, self._probability([*before, *wanted[:place]], token)))
        return Scored(tuple(scored), len(before))

    def _probability(self, prefix: Sequence[int], token: int) -> float:
        """Log-probability of one token after others.

        The bias makes llama.cpp pick the token; the log-probability that it reports is that before the bias. What
        stands before is in the slot's memory, so each step reads one token.
        """
        wish = {"n_predict": 1, "n_probs": 1, "temperature": 0.0, "logit_bias": [[token, 1000.0]], "cache_prompt": True}
        answer = self._server.handle_completions({"prompt": list(prefix), **wish})
        _raise_error(answer)
        content = (answer["choices"][0]["logprobs"] or {}).get("content") or ()
        if content and content[0]["id"] == token:
            return float(content[0]["logprob"])
        # A token that begins a code point is held back with its probability, so it is looked up among all of them.
        found = dict(self._first_token(prefix, _WHOLE_VOCABULARY))
        if token not in found:
            raise EngineError(Reason.ENGINE_FAILED, f"llama.cpp reported no probability of token {token}")
        return found[token]

    def embed(self, texts: Sequence[str]) -> Embedded:
        answer = self._server.handle_embeddings({"input": list(texts), "encoding_format": "base64"})
        _raise_error(answer, text_limit=self._context_tokens)
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = tuple(base64.b64decode(row["embedding"]) for row in rows)
        return Embedded(vectors, answer["usage"]["prompt_tokens"])

    def _first_token(self, prompt: str | Sequence[int], count: int) -> tuple[tuple[int, float], ...]:
        """The most probable first tokens.

        Asked for on its own: with the generation, every token would be sorted out, and a first token that is part of a
        code point would be reported without its probabilities. The bias makes llama.cpp pick a whole letter; what it
        reports is untouched by it. The prompt stays in the slot's memory, so the generation does not read it again.
        """
        wish: dict[str, Any] = {
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": count,
            "logit_bias": [["a", 1000.0]],
            "temperature": 0.0,
        }
        answer = self._server.handle_completions({**wish, "cache_prompt": True})
        _raise_error(answer)
        content = (answer["choices"][0]["logprobs"] or {}).get("content") or ()
        if not content:
            raise EngineError(Reason.ENGINE_FAILED, "llama.cpp reported no probabilities of the first token")
        return tuple((int(token["id"]), float(token["logprob"])) for token in content[0]["top_logprobs"])


class _Watch:
    """Takes what llama.cpp says about one request."""

    def __init__(self, on_text: OnText, cancelled: Cancelled) -> None:
        self._on_text, self._cancelled = on_text, cancelled
        self._input_tokens = self._output_tokens = 0
        self._finish: FinishReason | None = None
        self._next_check = 0.0
        self._failure: BaseException | None = None

    def take(self, message: Mapping[str, Any]) -> bool:
        """True ends the generation."""
        try:
            return self._take(message)
        except BaseException as err:  # noqa: BLE001 - the caller is C++; the exception is raised again by `result`.
            self._failure = err
            return True

    def _take(self, message: Mapping[str, Any]) -> bool:
        _raise_error(message)
        progress = message.get("prompt_progress")
        if progress is not None:
            self._input_tokens = progress["total"]
        choice = message["choices"][0]
        if choice["text"]:
            self._output_tokens += 1
            self._on_text(choice["text"])
        if choice["finish_reason"] is not None:
            self._finish = FinishReason(choice["finish_reason"])
            usage = message["usage"]
            self._input_tokens, self._output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            return False
        now = time.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + _CANCEL_CHECK_S
        if self._cancelled():
            self._finish = FinishReason.CANCELLED
            return True
        return False

    def result(self, first_token: tuple[tuple[int, float], ...]) -> Generated:
        """What came of it.

        Raises:
            EngineError: llama.cpp refused or failed.
        """
        if self._failure is not None:
            raise self._failure
        if self._finish is None:
            raise EngineError(Reason.ENGINE_FAILED, "llama.cpp ended the generation without saying why; try again")
        return Generated(self._finish, self._input_tokens, self._output_tokens, first_token)


def _parameters(llama: Any, spec: ModelSpec, address: door.Door) -> Any:
    made = llama.CommonParams()
    made.model.path = spec.gguf
    if spec.adapter:
        adapter = llama.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = spec.adapter, 1.0
        made.lora_adapters = [adapter]
    made.n_parallel = spec.slots
    made.n_ctx = spec.slots * spec.context_tokens
    made.kv_unified = False  # Each slot has its context for itself; a long prompt cannot push out another.
    made.fit_params = False  # Never takes less than asked for in silence.
    made.n_batch = made.n_ubatch = _BATCH_TOKENS
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = spec.threads
    made.cache_ram_mib = 0
    made.hostnames, made.api_keys = [address.name], [address.key]
    made.n_threads_http = 1
    made.ui = made.endpoint_slots = False
    made.verbosity = 1
    if spec.kind is Kind.EMBED:
        made.embedding = True
        made.pooling_type = llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # Every text must fit into one batch, since each of its tokens looks at all others.
        made.n_batch = made.n_ubatch = max(512, spec.context_tokens)
    return made


def _request(sampling: Sampling) -> dict[str, Any]:
    wish: dict[str, Any] = {
        "stream": True,
        "return_progress": True,  # A message before the prompt is read and after each batch of it.
        "cache_prompt": True,
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # Nothing but what was asked for, in the order of the OpenAI API; llama.cpp would do more by itself.
        "samplers": ["temperature", "top_p"],
        "stop": list(sampling.stop),
        "ignore_eos": sampling.ignore_eos,
    }
    if sampling.seed is not None:
        wish["seed"] = sampling.seed % _SEEDS
    return wish


def _raise_error(message: Mapping[str, Any], *, text_limit: int = 0) -> None:
    """Raises what llama.cpp reports; `text_limit` is how many tokens a text to embed may have, 0 for a prompt."""
    error = message.get("error")
    if error is None:
        return
    text = str(error.get("message", "no message"))
    too_large = _TOO_LARGE.match(text)
    if error.get("type") == "exceed_context_size_error" or too_large is not None:
        has = too_large[1] if too_large is not None else error["n_prompt_tokens"]
        told = f"the prompt has {has} tokens, the model takes {error.get('n_ctx')} for prompt and answer together"
        if text_limit:
            told = f"a text has {has} tokens, the model takes {text_limit}"
        raise EngineError(Reason.CONTEXT_LENGTH_EXCEEDED, f"{told}; shorten it")
    if error.get("code") == 400:
        raise EngineError(Reason.INVALID_PROMPT, text)
    raise EngineError(Reason.ENGINE_FAILED, text)
