"""Our table of Triton's messages against NVIDIA's own, and a server that sends what no model would."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from mainspring_answers.domain import FinishReason, Sampling
from mainspring_answers.triton import TritonClient
from mainspring_answers.triton_protocol import SERVICE, containing_message, messages
from mainspring_svckit.errors import MainspringError

theirs: Any = service_pb2


@pytest.mark.parametrize("name", sorted(messages))
def test_a_message_is_as_the_protocol_declares_it(name: str) -> None:
    outer = containing_message(name)
    official = getattr(getattr(theirs, outer) if outer else theirs, name).DESCRIPTOR
    for field in messages[name].DESCRIPTOR.fields:
        declared = official.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (
            declared.number,
            declared.type,
            declared.is_repeated,
        )
        assert (field.containing_oneof is None) == (declared.containing_oneof is None)


def tensor(name: str, datatype: str, shape: list[int], raw: bytes) -> Any:
    response = messages["ModelInferResponse"]()
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    response.raw_output_contents.append(raw)
    return response


def text(name: str, value: bytes) -> Any:
    return tensor(name, "BYTES", [1], struct.pack("<I", len(value)) + value)


class Liar:
    """A server that answers every inference with what a test wants."""

    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.described = 0

    async def infer(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            for number, response in enumerate(self.responses, 1):
                message = messages["ModelStreamInferResponse"](infer_response=response)
                final = message.infer_response.parameters["triton_final_response"]
                final.bool_param = number == len(self.responses)
                yield message.SerializeToString()

    async def metadata(self, request: bytes, _: Any) -> bytes:
        del request
        self.described += 1
        return messages["ModelMetadataResponse"](name="m").SerializeToString()


@pytest.fixture
async def liar() -> AsyncIterator[tuple[Liar, TritonClient]]:
    server, made = grpc.aio.server(), Liar()
    handlers = {
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(made.infer),
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(made.metadata),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = TritonClient(f"127.0.0.1:{port}")
    yield made, client
    await client.close()
    await server.stop(0)


async def failure(client: TritonClient, *, embeds: bool = False) -> str:
    with pytest.raises(MainspringError) as caught:
        if embeds:
            await client.embed("m", ["a", "b"])
        async for _ in client.generate("m", "a", Sampling()):
            pass
    return caught.value.reason


@pytest.mark.parametrize(
    "response",
    [
        tensor("text_output", "FP32", [1], b"\0\0\0\0"),
        tensor("text_output", "BYTES", [1], b"\xff\xff\xff\xff"),
        tensor("text_output", "BYTES", [1], b""),
        text("text_output", b"\xff"),
        tensor("num_output_tokens", "UINT32", [1], b"\0"),
        text("logprobs", b"[" * 50_000),
        text("logprobs", b'[{"a": {"logprob": 1}}]'),
        text("logprobs", b"[1]"),
        text("finish_reason", b"because"),
        messages["ModelInferResponse"](outputs=[{"name": "text_output"}]),
    ],
)
async def test_f16_what_is_no_answer_is_an_error(liar: tuple[Liar, TritonClient], response: Any) -> None:
    server, client = liar
    server.responses = [response]
    assert await failure(client) == "TRITON_RESPONSE_INVALID"


@pytest.mark.parametrize(
    "response",
    [
        tensor("embedding", "FP32", [1, 2], b"\0" * 8),
        tensor("embedding", "FP32", [2, 2], b"\0" * 8),
        tensor("embedding", "FP32", [2, 0], b""),
        tensor("embedding", "INT32", [2, 1], b"\0" * 8),
        text("text_output", b"a"),
    ],
)
async def test_f16_what_are_no_vectors_is_an_error(liar: tuple[Liar, TritonClient], response: Any) -> None:
    server, client = liar
    server.responses = [response]
    assert await failure(client, embeds=True) == "TRITON_RESPONSE_INVALID"


async def test_i12_a_stream_that_ends_without_its_last_response_is_an_error(liar: tuple[Liar, TritonClient]) -> None:
    _, client = liar
    assert await failure(client) == "TRITON_UNAVAILABLE"


async def test_text_comes_in_order_and_counts_are_summed(liar: tuple[Liar, TritonClient]) -> None:
    server, client = liar
    for value in (b"a", b"", b"b"):
        response = text("text_output", value)
        response.MergeFrom(tensor("num_output_tokens", "UINT32", [1], struct.pack("<I", 2)))
        server.responses.append(response)
    server.responses[-1].MergeFrom(text("finish_reason", b"stop"))
    chunks = [chunk async for chunk in client.generate("m", "a", Sampling())]
    assert [chunk.text for chunk in chunks] == ["a", "", "b"]
    assert (chunks[-1].finish_reason, chunks[-1].output_tokens) == (FinishReason.STOP, 6)


async def test_f16_what_a_model_takes_is_looked_at_anew_after_a_while_and_after_a_failure(
    liar: tuple[Liar, TritonClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = liar
    server.responses = [text("finish_reason", b"stop")]

    async def described() -> int:
        async for _ in client.generate("m", "a", Sampling()):
            pass
        return server.described

    assert [await described(), await described()] == [1, 1]
    monkeypatch.setattr("mainspring_answers.triton._TENSORS_KNOWN_S", 0.0)
    assert await described() == 2
    monkeypatch.setattr("mainspring_answers.triton._TENSORS_KNOWN_S", 1e9)
    good, server.responses = server.responses, []
    assert await failure(client) == "TRITON_UNAVAILABLE"
    server.responses = good
    assert await described() == 3
