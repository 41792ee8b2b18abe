"""Requests and responses of Triton as bytes on the wire, without numpy."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mainspring_answers.domain import Sampling
from mainspring_answers.triton_protocol import messages
from mainspring_svckit.errors import Unavailable


class Outputs:
    """Tensors of one response, read with care: what comes from another process may be anything.

    Every method raises `Unavailable` (TRITON_RESPONSE_INVALID) for what is not as it must be.
    """

    def __init__(self, response: Any) -> None:
        """Takes a `ModelInferResponse`."""
        if len(response.outputs) != len(response.raw_output_contents):
            raise invalid_response("it has tensors without contents")
        pairs = zip(response.outputs, response.raw_output_contents, strict=True)
        self._tensors: dict[str, tuple[Any, bytes]] = {tensor.name: (tensor, raw) for tensor, raw in pairs}

    def text(self, name: str) -> str:
        """A text tensor's first text; empty when there is no such tensor."""
        if name not in self._tensors:
            return ""
        tensor, raw = self._tensors[name]
        if tensor.datatype != "BYTES" or len(raw) < 4 or len(raw) - 4 != int.from_bytes(raw[:4], "little"):
            raise invalid_response(f"{name} is not one text")
        try:
            return raw[4:].decode()
        except UnicodeDecodeError as err:
            raise invalid_response(f"{name} is not UTF-8") from err

    def number(self, name: str) -> int:
        """A count; 0 when there is no such tensor."""
        if name not in self._tensors:
            return 0
        tensor, raw = self._tensors[name]
        if tensor.datatype != "UINT32" or len(raw) != 4:
            raise invalid_response(f"{name} is not one count")
        return int.from_bytes(raw, "little")

    def first_token(self) -> tuple[tuple[int, float], ...]:
        """Token ids and log-probabilities of the first position that this response tells of."""
        try:
            positions = json.loads(self.text("logprobs") or "null")
            found = {int(token): float(entry["logprob"]) for token, entry in positions[0].items()} if positions else {}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as err:
            raise invalid_response("logprobs is not a list of positions") from err
        return tuple(sorted(found.items(), key=lambda pair: -pair[1]))

    def tokens(self) -> tuple[tuple[int, float], ...]:
        """Token ids and log-probabilities of a given text, one for each position."""
        try:
            positions = json.loads(self.text("logprobs"))
            found = tuple((int(token), float(entry["logprob"])) for each in positions for token, entry in each.items())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
            raise invalid_response("logprobs is not a list of positions") from err
        if not found or not all(logprob <= 0 for _, logprob in found):
            raise invalid_response("logprobs holds no probabilities")
        return found

    def vectors(self, name: str, count: int) -> list[tuple[float, ...]]:
        """A matrix of `count` rows."""
        tensor, raw = self._tensors.get(name, (None, b""))
        shape = [] if tensor is None else list(tensor.shape)
        if tensor is None or tensor.datatype != "FP32" or len(shape) != 2 or shape[0] != count:
            raise invalid_response(f"{name} is not {count} vectors")
        if shape[1] <= 0 or len(raw) != count * shape[1] * 4:
            raise invalid_response(f"{name} has not the bytes of its shape")
        return list(struct.iter_unpack(f"<{shape[1]}f", raw))


def sampling_of(sampling: Sampling, top_logprobs: int) -> dict[str, Any]:
    """Sampling parameters by vLLM's names."""
    wish: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_output_tokens,
    }
    if sampling.seed is not None:
        wish["seed"] = sampling.seed
    if sampling.stop:
        wish["stop"] = list(sampling.stop)
    if top_logprobs:
        wish["logprobs"] = top_logprobs
    return wish


def request_of(model: str, texts: Mapping[str, Sequence[str]], flags: Mapping[str, bool]) -> Any:
    """A `ModelInferRequest` with text and boolean tensors."""
    request = messages["ModelInferRequest"](model_name=model)
    # Without this the server tells of a last response only when it is not empty.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, values in texts.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
        # A lone surrogate cannot be encoded; the engine's tokenizer would see a replacement character anyway.
        encoded = [value.encode(errors="replace") for value in values]
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(text)) + text for text in encoded))
    for name, value in flags.items():
        request.inputs.add(name=name, datatype="BOOL", shape=[1])
        request.raw_input_contents.append(bytes([value]))
    return request


def invalid_response(what: str) -> Unavailable:
    """The error for a response that is none; `what` says why."""
    message = f"Triton sent a response that is none: {what}; the model must be one of Mainspring's"
    return Unavailable("TRITON_RESPONSE_INVALID", message)
