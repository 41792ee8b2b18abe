"""What Triton's vLLM backend is given. The backend itself needs a GPU; what it reads is checked after its own code."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from mainspring_answers.domain import FinishReason, Sampling
from mainspring_answers.triton import ADAPTER_NAME, ADAPTER_TENSOR, TritonClient
from mainspring_inference.adapters import triton_repository, vllm_repository
from mainspring_inference.adapters.triton_repository import Model, ModelUse, TritonModel
from mainspring_inference.adapters.triton_server import TritonServer
from mainspring_inference.adapters.vllm_repository import VllmModel, rank_of, room_for
from mainspring_inference.application.ports import ServableVersion
from mainspring_inference.domain.deployments import Engine, Serving
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.ids import new_id
from mainspring_svckit.values import ArtifactRef
from mainspring_testkit.triton_server import TritonServer as RealTriton

from .fakes import MODEL

if TYPE_CHECKING:
    from conftest import Reached, TinyFiles

# What vllm_backend's `_auto_complete_inputs_and_outputs` declares, and the arguments of vLLM's `AsyncEngineArgs`.
BACKEND_INPUTS = {
    "text_input": "TYPE_STRING",
    "stream": "TYPE_BOOL",
    "sampling_parameters": "TYPE_STRING",
    "exclude_input_in_output": "TYPE_BOOL",
    "return_finish_reason": "TYPE_BOOL",
    "return_logprobs": "TYPE_BOOL",
    "return_num_input_tokens": "TYPE_BOOL",
    "return_num_output_tokens": "TYPE_BOOL",
}
BACKEND_OUTPUTS = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "logprobs": "TYPE_STRING",
    "num_input_tokens": "TYPE_UINT32",
    "num_output_tokens": "TYPE_UINT32",
}
_TENSOR = re.compile(r'^(input|output) \[ \{ name: "(\w+)", data_type: (\w+), dims: (\[ -?1 \])', re.MULTILINE)


def tensors(config: str, which: str) -> dict[str, str]:
    return {name: kind for side, name, kind, _ in _TENSOR.findall(config) if side == which}


def test_the_backend_finds_what_it_reads(tmp_path: Path) -> None:
    folder = triton_repository.write(tmp_path, "m", VllmModel(Path("/files/p/x.hf"), 2048, slots=4, memory_share=0.3))
    config = (folder / "config.pbtxt").read_text()
    assert 'backend: "vllm"' in config
    # It asserts decoupled responses, and manages the GPUs itself.
    assert "model_transaction_policy { decoupled: true }" in config
    assert "instance_group [ { count: 1, kind: KIND_MODEL } ]" in config
    assert "max_batch_size: 0" in config
    assert (tensors(config, "input"), tensors(config, "output")) == (BACKEND_INPUTS, BACKEND_OUTPUTS)
    assert json.loads((folder / "1" / "model.json").read_bytes()) == {
        "model": "/files/p/x.hf",
        "tokenizer": "/files/p/x.hf",
        "load_format": "safetensors",
        "trust_remote_code": False,
        "dtype": "auto",
        "max_model_len": 2048,
        "max_num_seqs": 4,
        "max_logprobs": 128,
        "gpu_memory_utilization": 0.3,
    }
    assert not (folder / "1" / "multi_lora.json").exists()
    assert triton_repository.referenced(tmp_path) == {Path("/files/p/x.hf")}


def test_our_own_engine_can_do_all_that_the_backend_can_and_score() -> None:
    config = TritonModel(ModelUse.GENERATE, Path("/m.gguf"), 256).texts("m")["config.pbtxt"]
    assert tensors(config, "input") == BACKEND_INPUTS | {"continuation": "TYPE_STRING"}
    assert tensors(config, "output") == BACKEND_OUTPUTS


def test_an_adapter_is_named_where_the_backend_and_where_its_callers_look(tmp_path: Path) -> None:
    model = VllmModel(Path("/b.hf"), 512, Path("/a.hf"), rank=20)
    folder = triton_repository.write(tmp_path, "m", model)
    engine = json.loads((folder / "1" / "model.json").read_bytes())
    assert (engine["enable_lora"], engine["max_loras"], engine["max_lora_rank"]) == (True, 1, 32)
    assert json.loads((folder / "1" / "multi_lora.json").read_bytes()) == {ADAPTER_NAME: "/a.hf"}
    assert ADAPTER_TENSOR in tensors((folder / "config.pbtxt").read_text(), "input")
    assert triton_repository.referenced(tmp_path) == {Path("/b.hf"), Path("/a.hf")}


def test_a_folder_that_is_written_for_another_engine_keeps_nothing_of_the_first(tmp_path: Path) -> None:
    folder = triton_repository.write(tmp_path, "m", VllmModel(Path("/b.hf"), 512, Path("/a.hf"), rank=8))
    triton_repository.write(tmp_path, "m", TritonModel(ModelUse.GENERATE, Path("/m.gguf"), 256))
    assert [path.name for path in (folder / "1").iterdir()] == ["model.py"]
    with pytest.raises(PreconditionFailed):
        triton_repository.write(tmp_path, "n", VllmModel(Path("/b.hf"), 512, Path("/a.hf"), rank=513))
    assert not (tmp_path / "n").exists()


async def test_f10_an_adapter_without_its_configuration_is_refused(tmp_path: Path, artifact_url: str) -> None:
    server = TritonServer(
        cast("TritonClient", cast("Any", Loads())),
        ArtifactStore(artifact_url),
        repository=tmp_path / "repository",
        cache=tmp_path / "cache",
        slots=2,
        threads=1,
        load_timeout_s=5,
    )
    files = {"adapter_model.safetensors": ArtifactRef("a" * 64, 1)}
    version = ServableVersion(f"{MODEL}/versions/1", False, files, files, Serving(256, "t"), Engine.VLLM)
    with pytest.raises(PreconditionFailed) as caught:
        await server.load("adapted", version)
    assert caught.value.reason == "FILE_MISSING"


def test_b7_an_adapter_that_vllm_has_no_room_for_is_refused() -> None:
    assert rank_of(b'{"r": 8, "rank_pattern": {"q_proj": 40}}') == 40
    assert [room_for(rank) for rank in (1, 8, 9, 512)] == [8, 8, 16, 512]
    with pytest.raises(PreconditionFailed) as caught:
        room_for(513)
    assert caught.value.reason == "ADAPTER_RANK_UNSUPPORTED"
    for broken in (b"", b"[]", b"{}", b'{"r": "x"}'):
        with pytest.raises(PreconditionFailed) as invalid:
            rank_of(broken)
        assert invalid.value.reason == "MODEL_LOAD_FAILED"


def test_the_dry_run_prints_the_folder_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: TinyFiles
) -> None:
    before = sorted(tmp_path.rglob("*"))
    given = [str(tiny.llama_folder), "--adapter", str(tiny.adapter_folder), "--context-tokens", "256"]
    assert vllm_repository.main(given) == 0
    printed = capsys.readouterr().out
    assert all(f"--- model/{place}" in printed for place in ("config.pbtxt", "1/model.json", "1/multi_lora.json"))
    assert sorted(tmp_path.rglob("*")) == before


class Loads:
    """Takes every model as soon as it is asked to; stands for a Triton with the vLLM backend."""

    async def load(self, model: str, *, timeout_s: float) -> None:
        del model, timeout_s

    async def unload(self, model: str) -> None:
        del model

    async def is_ready(self, model: str) -> bool:
        del model
        return True


async def test_f10_a_folder_s_files_are_fetched_verified_and_removed_with_the_last_model_that_needs_them(
    tmp_path: Path, artifact_url: str, tiny: TinyFiles
) -> None:
    store, cache, repository = ArtifactStore(artifact_url), tmp_path / "cache", tmp_path / "repository"

    async def stored(folder: Path) -> dict[str, ArtifactRef]:
        return {path.name: await store.put_file("p", path) for path in folder.iterdir()}

    base, adapter = await stored(tiny.llama_folder), await stored(tiny.adapter_folder)
    server = TritonServer(
        cast("TritonClient", cast("Any", Loads())),
        store,
        repository=repository,
        cache=cache,
        slots=2,
        threads=1,
        load_timeout_s=5,
    )

    def version(number: int, adapted: bool) -> ServableVersion:
        name = f"{MODEL}/versions/{number}"
        return ServableVersion(name, False, base, adapter if adapted else None, Serving(256, "t"), Engine.VLLM)

    await server.load("plain", version(1, adapted=False))
    await server.load("adapted", version(2, adapted=True))
    engine = json.loads((repository / "adapted" / "1" / "model.json").read_bytes())
    held = Path(engine["model"])
    assert {path.name: path.read_bytes() for path in held.iterdir()} == {
        path.name: path.read_bytes() for path in tiny.llama_folder.iterdir()
    }
    assert engine["max_lora_rank"] == 8
    await server.unload("adapted")
    assert [path.resolve() for path in (cache / "p").iterdir()] == [held]
    rotten = next(held.glob("*.safetensors"))
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"x")
    await server.load("plain", version(1, adapted=False))
    assert rotten.read_bytes() == (tiny.llama_folder / rotten.name).read_bytes()
    await server.unload("plain")
    assert not list((cache / "p").iterdir())


STAND_IN = """
import numpy
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            told = triton.get_input_tensor_by_name(request, "sampling_parameters").as_numpy()
            tensors = [
                triton.Tensor("text_output", told),
                triton.Tensor("finish_reason", numpy.asarray(["stop"], dtype=numpy.object_)),
                # Without a dimension, as the backend sends it.
                triton.Tensor("num_input_tokens", numpy.asarray(3, dtype=numpy.uint32)),
                triton.Tensor("num_output_tokens", numpy.asarray([2], dtype=numpy.uint32)),
            ]
            final = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            request.get_response_sender().send(triton.InferenceResponse(tensors), flags=final)
"""


async def test_triton_takes_the_configuration_and_each_question_names_the_adapter(
    triton: RealTriton, client: TritonClient, reached: Reached
) -> None:
    # The real server with a stand-in for the backend: what is asked and answered has the backend's tensors.
    assert await reached()
    for name, adapter in ((f"adapted-{new_id()}", Path("/a.hf")), (f"plain-{new_id()}", None)):
        folder = triton_repository.write(triton.repository, name, VllmModel(Path("/b.hf"), 512, adapter, rank=4))
        config = (folder / "config.pbtxt").read_text().replace('"vllm"', '"python"').replace("KIND_MODEL", "KIND_CPU")
        (folder / "config.pbtxt").write_text(config)
        (folder / "1" / "model.py").write_text(STAND_IN)
        await client.load(name)
        (chunk,) = [chunk async for chunk in client.generate(name, "hi", Sampling(5, 0.0), stream=False)]
        assert json.loads(chunk.text).get("lora_name") == (ADAPTER_NAME if adapter is not None else None)
        assert (chunk.finish_reason, chunk.input_tokens, chunk.output_tokens) == (FinishReason.STOP, 3, 2)
        with pytest.raises(PreconditionFailed) as caught:
            await client.score(name, "hi", "there")
        assert caught.value.reason == "SCORING_UNSUPPORTED"
        await client.unload(name)
        shutil.rmtree(folder)


def test_the_same_model_gives_the_same_texts() -> None:
    models: list[Model] = [VllmModel(Path("/b.hf"), 512, Path("/a.hf"), rank=4) for _ in range(2)]
    assert models[0].texts("m") == models[1].texts("m")
