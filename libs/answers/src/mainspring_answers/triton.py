"""Triton's client: generates, embeds, loads and unloads models, and tells whether they really answer.

Speaks Triton's protocol over `grpc.aio` with bytes as they are on the wire; no numpy. Every wait has a deadline, and
every failure is an error of `mainspring_svckit.errors`:

| reason | |
|---|---|
| TRITON_UNAVAILABLE | the server cannot be reached, did not answer in time, or broke off |
| MODEL_NOT_READY | the server is there, the model is not loaded or its process died |
| MODEL_LOAD_FAILED | the server refused to load a model |
| TRITON_RESPONSE_INVALID | the server sent something that is no answer of this model |
| SCORING_UNSUPPORTED | the model's engine cannot say how probable a given text is |
| CONTEXT_LENGTH_EXCEEDED, INVALID_SAMPLING, INVALID_PROMPT | the request can never work as it is |
| OVERLOADED | the model's queue is full |
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import grpc

from mainspring_answers.domain import FinishReason, Sampling, Scored
from mainspring_answers.ports import Chunk
from mainspring_answers.triton_protocol import SERVICE, messages
from mainspring_answers.triton_tensors import Outputs, invalid_response, request_of, sampling_of
from mainspring_svckit.errors import InvalidInput, MainspringError, PreconditionFailed, Unavailable
from mainspring_svckit.grpc_client import open_channel

_UNARY = ("ServerReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
_ENGINE_ERROR = re.compile(
    r"(CONTEXT_LENGTH_EXCEEDED|INVALID_SAMPLING|INVALID_PROMPT|OVERLOADED|ENGINE_FAILED): (.{1,500})", re.DOTALL
)
# How vLLM says it.
_TOO_LONG = re.compile(r"longer than the maximum model length|maximum context length", re.IGNORECASE)
# Not "unavailable": with that word grpc says that the whole server is away.
_NOT_READY = re.compile(r"unknown model|not found|not ready|not healthy|no available|is not loaded", re.IGNORECASE)
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.CANCELLED}
# A model that answered this recently needs no probe.
_FRESH_S = 1.0
_PROBE = "."
ADAPTER_TENSOR = "lora_name"
"""A model that declares this input, and so vLLM's with an adapter, answers with it only when each question names it."""
ADAPTER_NAME = "adapter"
"""What such an adapter is called."""
_SCORING_TENSOR = "continuation"
# An engine can be changed by another process; what its model takes is then soon looked at anew.
_TENSORS_KNOWN_S = 10.0
_GONE_POLL_S = 0.05
# Triton 2.51 never ends a request whose model's process died while it was answered, so silence makes us look; later
# than any probe gives up, for a probe must not look after itself.
_SILENCE_FACTOR = 1.5
_EOF = cast(Any, grpc.aio).EOF  # Missing in the library's types.


class TritonClient:
    """One channel to one Triton; used by all calls of a process at once. Implements `ports.Engine`."""

    def __init__(
        self,
        address: str,
        *,
        generate_timeout_s: float = 300.0,
        embed_timeout_s: float = 60.0,
        probe_timeout_s: float = 2.0,
    ) -> None:
        """Takes the server's `host:port` and the longest waits; connects when it is first used."""
        self._channel = open_channel(address)
        self._generate_timeout_s, self._embed_timeout_s = generate_timeout_s, embed_timeout_s
        self._probe_timeout_s = probe_timeout_s
        self._calls: dict[str, Any] = {name: self._unary(name) for name in _UNARY}
        self._infer: Any = self._channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            request_serializer=messages["ModelInferRequest"].SerializeToString,
            response_deserializer=messages["ModelStreamInferResponse"].FromString,
        )
        self._answered_at: dict[str, float] = {}
        self._tensors: dict[str, tuple[float, frozenset[str], frozenset[str]]] = {}
        self._silent: set[str] = set()

    async def close(self) -> None:
        """Ends all calls and closes the channel."""
        await self._channel.close()

    async def generate(
        self, model: str, prompt: str, sampling: Sampling, *, stream: bool = True, top_logprobs: int = 0
    ) -> AsyncGenerator[Chunk]:
        """Continues a prompt; closing the iterator stops the generation. As `ports.Engine.generate`.

        Raises:
            InvalidInput: CONTEXT_LENGTH_EXCEEDED, INVALID_SAMPLING or INVALID_PROMPT.
            Unavailable: TRITON_UNAVAILABLE, MODEL_NOT_READY, OVERLOADED or TRITON_RESPONSE_INVALID.
        """
        parameters = sampling_of(sampling, top_logprobs)
        if ADAPTER_TENSOR in (await self._known_tensors(model))[0]:
            parameters["lora_name"] = ADAPTER_NAME
        inputs = {"text_input": [prompt], "sampling_parameters": [json.dumps(parameters)]}
        flags = {"stream": stream, "exclude_input_in_output": True, "return_logprobs": top_logprobs > 0}
        flags |= dict.fromkeys(("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"), True)
        request = request_of(model, inputs, flags)
        output_tokens, first_token = 0, tuple[tuple[int, float], ...]()
        responses = self._responses(request, self._generate_timeout_s)
        try:
            async for outputs, final in responses:
                self._answered_at[model] = time.monotonic()
                output_tokens += outputs.number("num_output_tokens")
                first_token = first_token or outputs.first_token()
                finish = _FINISH.get(outputs.text("finish_reason"))
                text = outputs.text("text_output")
                if not final:
                    yield Chunk(text)
                    continue
                if finish is None:
                    raise invalid_response("its last response says no finish_reason")
                yield Chunk(text, finish, outputs.number("num_input_tokens"), output_tokens, first_token)
        finally:
            await responses.aclose()

    async def score(self, model: str, prompt: str, text: str) -> Scored:
        """How probable a given text is after a prompt. As `ports.Engine.score`.

        Raises:
            InvalidInput: CONTEXT_LENGTH_EXCEEDED or INVALID_PROMPT.
            PreconditionFailed: SCORING_UNSUPPORTED.
            Unavailable: As `generate`.
        """
        if _SCORING_TENSOR not in (await self._known_tensors(model))[0]:
            message = (
                f"the engine of {model} gives no probabilities of given texts; leave perplexity and calibration out"
            )
            raise PreconditionFailed("SCORING_UNSUPPORTED", message, {"model": model})
        request = request_of(model, {"text_input": [prompt], _SCORING_TENSOR: [text]}, {})
        responses = self._responses(request, self._generate_timeout_s)
        try:
            async for outputs, _ in responses:
                self._answered_at[model] = time.monotonic()
                return Scored(outputs.tokens(), outputs.number("num_input_tokens"))
        finally:
            await responses.aclose()
        raise invalid_response("it ended without probabilities")

    async def embed(self, model: str, texts: Sequence[str]) -> tuple[list[tuple[float, ...]], int]:
        """Vectors of texts in their order, of unit length, and the tokens that were read.

        Raises:
            InvalidInput: CONTEXT_LENGTH_EXCEEDED, a text is too long; INVALID_PROMPT.
            Unavailable: As `generate`.
        """
        if not texts:
            return [], 0
        responses = self._responses(request_of(model, {"text_input": texts}, {}), self._embed_timeout_s)
        try:
            async for outputs, _ in responses:
                vectors = outputs.vectors("embedding", len(texts))
                self._answered_at[model] = time.monotonic()
                return vectors, outputs.number("num_input_tokens")
        finally:
            await responses.aclose()
        raise invalid_response("it ended without a vector")

    async def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        """Loads a model from its folder; returns when the server holds it. One that is loaded is loaded anew when the
        code in its folder has changed, by as little as its time; otherwise nothing happens, even if its process died.

        Raises:
            PreconditionFailed: MODEL_LOAD_FAILED, the message says why.
            Unavailable: TRITON_UNAVAILABLE.
        """
        self._forget(model)
        await self._call("RepositoryModelLoad", timeout_s, model_name=model)

    async def unload(self, model: str, *, timeout_s: float = 30.0) -> None:
        """Takes a model out of memory and waits until it is gone; one that is not there is fine.

        Raises:
            Unavailable: TRITON_UNAVAILABLE, or it was not gone in time.
        """
        self._forget(model)
        ends = time.monotonic() + timeout_s
        # The server refuses to unload what it has never heard of; the index tells whether that was it.
        with suppress(PreconditionFailed):
            await self._call("RepositoryModelUnload", timeout_s, model_name=model)
        while (await self.index()).get(model, "") not in {"", "UNAVAILABLE"}:
            if time.monotonic() > ends:
                message = f"Triton still holds {model} after {timeout_s:.0f} s; restart it if this stays so"
                raise Unavailable("TRITON_UNAVAILABLE", message)
            await asyncio.sleep(_GONE_POLL_S)

    async def index(self) -> Mapping[str, str]:
        """State of every model in the repository: READY, LOADING, UNLOADING, UNAVAILABLE, or empty when never loaded.

        Raises:
            Unavailable: TRITON_UNAVAILABLE.
        """
        answer = await self._call("RepositoryIndex", self._probe_timeout_s)
        return {model.name: model.state for model in answer.models}

    async def probe(self, model: str, *, fresh_s: float = _FRESH_S) -> None:
        """Returns when a real inference of a model worked just now; a server that says READY of a model whose process
        died is not believed.

        Args:
            model: Its name in Triton.
            fresh_s: An answer that is no older proves as much as a new one, and costs nothing.

        Raises:
            Unavailable: MODEL_NOT_READY, the model is not loaded or its process died; OVERLOADED or TRITON_UNAVAILABLE,
                it may be loaded but did not answer in time.
        """
        if time.monotonic() - self._answered_at.get(model, float("-inf")) < fresh_s:
            return
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                if "embedding" in (await self._known_tensors(model))[1]:
                    await self.embed(model, [_PROBE])
                    return
                async for _ in self.generate(model, _PROBE, Sampling(1, 0.0), stream=False):
                    pass
        except TimeoutError as err:
            message = f"{model} did not answer within {self._probe_timeout_s:g} s; it may be busy"
            raise Unavailable("TRITON_UNAVAILABLE", message) from err

    async def is_ready(self, model: str) -> bool:
        """Whether a real inference works now."""
        try:
            await self.probe(model)
        except MainspringError:
            return False
        return True

    async def check_server(self) -> None:
        """Returns when the server takes requests; says nothing about models.

        Raises:
            Unavailable: TRITON_UNAVAILABLE.
        """
        answer = await self._call("ServerReady", self._probe_timeout_s)
        if not answer.ready:
            raise Unavailable("TRITON_UNAVAILABLE", "Triton is starting or stopping; try again in a moment")

    async def check(self, model: str) -> None:
        """Returns when a real inference of a model works.

        Raises:
            Unavailable: MODEL_NOT_READY.
        """
        if not await self.is_ready(model):
            raise _not_ready(model)

    def _forget(self, model: str) -> None:
        self._answered_at.pop(model, None)
        self._tensors.pop(model, None)

    async def _known_tensors(self, model: str) -> tuple[frozenset[str], frozenset[str]]:
        """Names of a model's inputs and outputs, which tell what its engine can do."""
        known = self._tensors.get(model)
        if known is None or time.monotonic() - known[0] >= _TENSORS_KNOWN_S:
            asked = time.monotonic()
            answer = await self._call("ModelMetadata", self._probe_timeout_s, name=model)
            both = [frozenset(tensor.name for tensor in tensors) for tensors in (answer.inputs, answer.outputs)]
            known = self._tensors[model] = (asked, both[0], both[1])
        return known[1:]

    async def _responses(self, request: Any, timeout_s: float) -> AsyncGenerator[tuple[Outputs, bool]]:
        """The responses to one request, each with whether it is the last; closing this early cancels the request.

        The last response, or the error, is handed out only when the server has ended the call: a call that is
        cancelled between the two is never let go by Triton 2.51, and its model can then not be unloaded.
        """
        call = self._infer(timeout=timeout_s)
        last: Outputs | None = None
        failure: MainspringError | None = None
        ended = False
        try:
            await call.write(request)
            await call.done_writing()
            while (response := await self._read(call, request.model_name)) is not _EOF:
                if response.error_message:
                    failure = failure or _engine_error(request.model_name, response.error_message)
                elif response.infer_response.parameters["triton_final_response"].bool_param:
                    last = Outputs(response.infer_response)
                else:
                    yield Outputs(response.infer_response), False
            ended = True
        except grpc.RpcError as err:
            ended = True
            raise _rpc_error(request.model_name, err) from err
        except asyncio.InvalidStateError as err:
            # What grpc.aio raises for a write after the call has failed.
            ended = True
            raise Unavailable("TRITON_UNAVAILABLE", "Triton cannot be reached; it is restarted if it died") from err
        finally:
            if not ended:
                call.cancel()
            elif last is None:
                # Whatever it answered before, a failure says more about now.
                self._forget(request.model_name)
        if failure is None and last is None:
            failure = Unavailable("TRITON_UNAVAILABLE", "Triton broke off in the middle of an answer; try again")
        if failure is not None:
            raise failure
        assert last is not None
        yield last, True

    async def _read(self, call: Any, model: str) -> Any:
        """The next response; while none comes, its model must be alive.

        Raises:
            Unavailable: MODEL_NOT_READY, its process died.
        """
        reading = asyncio.ensure_future(call.read())
        try:
            while not (await asyncio.wait({reading}, timeout=self._probe_timeout_s * _SILENCE_FACTOR))[0]:
                await self._check_silent(model)
            return reading.result()
        finally:
            reading.cancel()

    async def _check_silent(self, model: str) -> None:
        if model in self._silent:
            return  # One look at a time, however many requests wait.
        self._silent.add(model)
        try:
            await self.probe(model)
        except MainspringError as err:
            if err.reason == "MODEL_NOT_READY":
                raise
        finally:
            self._silent.discard(model)

    def _unary(self, name: str) -> Any:
        return self._channel.unary_unary(
            SERVICE + name,
            request_serializer=messages[f"{name}Request"].SerializeToString,
            response_deserializer=messages[f"{name}Response"].FromString,
        )

    async def _call(self, method: str, timeout_s: float, /, **fields: str) -> Any:
        try:
            return await self._calls[method](messages[f"{method}Request"](**fields), timeout=timeout_s)
        except grpc.RpcError as err:
            raise _rpc_error(fields.get("model_name") or fields.get("name", ""), err) from err


def _engine_error(model: str, text: str) -> MainspringError:
    known = _ENGINE_ERROR.search(text)
    if known is not None:
        reason, message = known.groups()
        if reason == "OVERLOADED":
            return Unavailable(reason, message)
        if reason == "ENGINE_FAILED":
            return Unavailable("TRITON_UNAVAILABLE", f"the engine failed: {message}")
        return InvalidInput(message, reason=reason)
    if _TOO_LONG.search(text):
        return InvalidInput(text.splitlines()[0][:500], reason="CONTEXT_LENGTH_EXCEEDED")
    if _NOT_READY.search(text):
        return _not_ready(model)
    return Unavailable("TRITON_UNAVAILABLE", f"Triton failed: {text[:200]}")


def _rpc_error(model: str, error: grpc.RpcError) -> MainspringError:
    call: Any = error
    code, details = call.code(), str(call.details() or "")
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED} and not _NOT_READY.search(details):
        return Unavailable("TRITON_UNAVAILABLE", "Triton cannot be reached; it is restarted if it died")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable("TRITON_UNAVAILABLE", "Triton did not answer in time; it may be busy or stuck")
    if "load" in details and code in {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT}:
        # What follows the first line is a stack.
        message = f"Triton cannot load {model}: {details.splitlines()[0][:500]}"
        return PreconditionFailed("MODEL_LOAD_FAILED", message, {"model": model})
    return _engine_error(model, details)


def _not_ready(model: str) -> Unavailable:
    message = f"{model} is not loaded, or its process died; it is loaded again if a deployment holds it"
    return Unavailable("MODEL_NOT_READY", message, metadata={"model": model})
