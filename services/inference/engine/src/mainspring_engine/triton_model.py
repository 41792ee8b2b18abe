"""The model that Triton's Python backend loads: tensors in, an engine's work, tensors out.

Decoupled: `execute` hands each request to a thread and returns at once. The tensors of a generating model are those of
Triton's vLLM backend, so that on a GPU that backend can stand here instead.

| input | type | |
|---|---|---|
| `text_input` | BYTES [1] | the prompt; for an embedding model [n] texts |
| `stream` | BOOL [1] | responses as text comes, else one; optional |
| `sampling_parameters` | BYTES [1] | JSON object, see `sampling`; optional |
| `exclude_input_in_output` | BOOL [1] | only true is taken, the prompt is never repeated; optional |
| `return_finish_reason`, `return_num_input_tokens`, `return_num_output_tokens` | BOOL [1] | optional |
| `return_logprobs` | BOOL [1] | optional |
| `continuation` | BYTES [1] | text whose probabilities after the prompt are wanted, and no answer; optional |

Outputs: `text_output`, and when asked for `finish_reason` ("None" before the end), `num_input_tokens`,
`num_output_tokens` (of this response; their sum counts), `logprobs` (JSON, of the first token only, or of each token
of a continuation). An embedding model
gives `embedding` (FP32 [n, dimensions], unit length) and `num_input_tokens`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mainspring_engine.engine import Engine, EngineError, Generated, Reason
from mainspring_engine.llama_cpp import LlamaCppEngine
from mainspring_engine.sampling import parse_sampling
from mainspring_engine.spec import PARAMETER, Kind, ModelSpec
from mainspring_engine.streams import Coalescer
from mainspring_engine.workers import Workers

QUEUE_MAX = 256
TEXTS_MAX = 256
# Requests of an embedding model are short and each fills several slots, so a few threads keep it busy.
_EMBED_WORKERS = 2
_NOT_FINISHED = "None"


class TritonPythonModel:
    """One loaded model; Triton makes it, calls `initialize` once, `execute` for requests, and `finalize` once."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model that the folder's config.pbtxt describes."""
        # Exists only inside the backend's process.
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        try:
            spec = ModelSpec.parse(config["parameters"][PARAMETER]["string_value"])
            self._engine: Engine = LlamaCppEngine(spec)
        except (EngineError, KeyError, ValueError) as err:
            raise self._triton.TritonModelException(str(err)) from err
        self._answer = self._generate if spec.kind is Kind.GENERATE else self._embed
        count = spec.slots if spec.kind is Kind.GENERATE else _EMBED_WORKERS
        self._workers = Workers(count, QUEUE_MAX, "engine")

    def execute(self, requests: Sequence[Any]) -> None:
        """Takes requests; their responses go out from the workers' threads."""
        for request in requests:
            sender = request.get_response_sender()
            # The tensors belong to Triton only until the request is done, so they are read here.
            job = self._job(request, sender)
            if job is not None and not self._workers.submit(job):
                message = f"{QUEUE_MAX} requests wait already; try again in a moment"
                self._fail(sender, EngineError(Reason.OVERLOADED, message))

    def finalize(self) -> None:
        """Ends the threads; Triton calls it when no request is being answered."""
        self._workers.close(timeout_s=5.0)

    def _job(self, request: Any, sender: Any) -> Callable[[], None] | None:
        try:
            return self._guarded(sender, self._answer(request, sender))
        except EngineError as err:
            self._fail(sender, err)
            return None

    def _guarded(self, sender: Any, work: Callable[[], None]) -> Callable[[], None]:
        """The work, which must not raise; whatever happens, the request gets its last response."""

        def job() -> None:
            try:
                work()
            except EngineError as err:
                self._fail(sender, err)
            except Exception as err:  # noqa: BLE001 - a thread that dies would take a slot with it.
                self._triton.Logger.log_error(f"request failed: {type(err).__name__}")
                self._fail(sender, EngineError(Reason.ENGINE_FAILED, "the engine failed; look at Triton's log"))

        return job

    def _fail(self, sender: Any, error: EngineError) -> None:
        response = self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))
        sender.send(response, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _generate(self, request: Any, sender: Any) -> Callable[[], None]:
        prompt = self._texts(request)[0]
        if self._triton.get_input_tensor_by_name(request, "continuation") is not None:
            return self._score(prompt, self._text(request, "continuation"), sender)
        sampling = parse_sampling(self._text(request, "sampling_parameters"))
        stream = self._flag(request, "stream")
        if not self._flag(request, "exclude_input_in_output", default=True):
            raise EngineError(Reason.INVALID_SAMPLING, "exclude_input_in_output is false; the prompt is never repeated")
        wanted = {
            name: self._flag(request, f"return_{name}")
            for name in ("finish_reason", "num_input_tokens", "num_output_tokens", "logprobs")
        }

        def response(text: str, end: Generated | None) -> Any:
            values: dict[str, Any] = {
                "finish_reason": _bytes(end.finish_reason if end else _NOT_FINISHED),
                "num_input_tokens": np.array([end.input_tokens if end else 0], np.uint32),
                "num_output_tokens": np.array([end.output_tokens if end else 0], np.uint32),
                "logprobs": _bytes(_logprobs(end) if end else "null"),
            }
            tensors = [self._triton.Tensor("text_output", _bytes(text))]
            tensors += [self._triton.Tensor(name, value) for name, value in values.items() if wanted[name]]
            return self._triton.InferenceResponse(output_tensors=tensors)

        def work() -> None:
            coalescer = Coalescer(lambda text: sender.send(response(text, None)), stream=stream)
            end = self._engine.generate(prompt, sampling, coalescer.add, sender.is_cancelled)
            last = response(coalescer.take_rest(), end)
            sender.send(last, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        return work

    def _score(self, prompt: str, continuation: str, sender: Any) -> Callable[[], None]:
        def work() -> None:
            scored = self._engine.score(prompt, continuation, sender.is_cancelled)
            positions = json.dumps([{str(token): {"logprob": logprob}} for token, logprob in scored.tokens])
            tensors = [
                self._triton.Tensor("text_output", _bytes("")),
                self._triton.Tensor("num_input_tokens", np.array([scored.input_tokens], np.uint32)),
                self._triton.Tensor("logprobs", _bytes(positions)),
            ]
            response = self._triton.InferenceResponse(output_tensors=tensors)
            sender.send(response, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        return work

    def _embed(self, request: Any, sender: Any) -> Callable[[], None]:
        texts = self._texts(request)

        def work() -> None:
            if sender.is_cancelled():
                sender.send(flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                return
            made = self._engine.embed(texts)
            vectors = np.frombuffer(b"".join(made.vectors), "<f4").reshape(len(texts), -1)
            tensors = [
                self._triton.Tensor("embedding", vectors),
                self._triton.Tensor("num_input_tokens", np.array([made.input_tokens], np.uint32)),
            ]
            response = self._triton.InferenceResponse(output_tensors=tensors)
            sender.send(response, flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        return work

    def _texts(self, request: Any) -> list[str]:
        tensor = self._triton.get_input_tensor_by_name(request, "text_input")
        values = [] if tensor is None else tensor.as_numpy().ravel().tolist()
        if not 1 <= len(values) <= TEXTS_MAX:
            raise EngineError(Reason.INVALID_PROMPT, f"text_input holds {len(values)} texts; send 1 to {TEXTS_MAX}")
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError as err:
            raise EngineError(Reason.INVALID_PROMPT, "text_input is not UTF-8") from err

    def _text(self, request: Any, name: str) -> str:
        tensor = self._triton.get_input_tensor_by_name(request, name)
        if tensor is None or tensor.as_numpy().size == 0:
            return ""
        return tensor.as_numpy().ravel()[0].decode(errors="replace")

    def _flag(self, request: Any, name: str, *, default: bool = False) -> bool:
        tensor = self._triton.get_input_tensor_by_name(request, name)
        return default if tensor is None or tensor.as_numpy().size == 0 else bool(tensor.as_numpy().ravel()[0])


def _bytes(text: str) -> Any:
    return np.array([text.encode()], dtype=np.object_)


def _logprobs(end: Generated) -> str:
    """The first position's tokens by id, as vLLM's backend writes a position."""
    ranked = enumerate(end.first_token, start=1)
    return json.dumps([{str(token): {"logprob": logprob, "rank": rank} for rank, (token, logprob) in ranked}])
