"""Compression: which tensor gets which type, that an adapter is merged as PEFT does, and what the kernels lose."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file

from mainspring_modelfiles import adapters, llama, quantization, quantizer
from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.quantization import Format, Mix
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import Weights, weight_files
from mainspring_testkit.tiny import LlamaShape, tiny_adapter, tiny_llama

WIDE = LlamaShape(hidden=256, feed_forward=512)


def test_a_format_gives_bits_where_they_matter() -> None:
    mix = Mix(Format.Q4_K_M, 16, tied=True)
    wide, square = (1024, 1024), (576, 576)
    assert mix.type_of("token_embd.weight", wide) is Type.Q6_K
    assert mix.type_of("blk.3.attn_q.weight", wide) is Type.Q4_K
    assert [mix.type_of(f"blk.{layer}.attn_v.weight", wide) for layer in (0, 2, 4, 15)] == [
        Type.Q6_K,
        Type.Q4_K,
        Type.Q6_K,
        Type.Q6_K,
    ]
    assert mix.type_of("blk.0.attn_norm.weight", (1024,)) is Type.F32
    # Rows that are no whole blocks of 256 get the next larger type.
    assert mix.type_of("blk.3.attn_q.weight", square) is Type.Q5_0
    assert mix.type_of("token_embd.weight", square) is Type.Q8_0
    assert Mix(Format.Q4_K_M, 16, tied=False).type_of("token_embd.weight", wide) is Type.Q4_K
    assert Mix(Format.Q4_K_M, 16, tied=False).type_of("output.weight", wide) is Type.Q6_K
    assert Mix(Format.Q6_K, 16, tied=True).type_of("blk.3.attn_q.weight", wide) is Type.Q6_K
    assert Mix(Format.Q8_0, 16, tied=True).type_of("blk.3.attn_q.weight", wide) is Type.Q8_0


def test_the_kernels_lose_little_and_q8_0_is_that_of_the_format_s_own_library() -> None:
    encode = quantization.Kernels().encode
    values = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    errors: dict[Type, float] = {}
    for kind in (Type.Q8_0, Type.Q6_K, Type.Q5_0, Type.Q4_K):
        back = gguf.dequantize(encode(values, kind), kind)
        errors[kind] = float(np.sqrt(((back - values) ** 2).mean()))
    assert list(errors.values()) == sorted(errors.values())
    assert errors[Type.Q8_0] < 0.01
    assert errors[Type.Q4_K] < 0.08
    assert (encode(values, Type.Q8_0) == gguf.quantize(values, Type.Q8_0)).all()


def test_an_adapter_is_merged_as_peft_merges_it(tmp_path: Path) -> None:
    base = Weights(weight_files(tiny_llama(tmp_path / "base")))
    adapter = tiny_adapter(tmp_path / "adapter")
    merged = adapters.Merged(base, adapter)
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    tensors = load_file(adapter / "adapter_model.safetensors")
    module = "model.layers.1.mlp.up_proj"
    product = tensors[f"base_model.model.{module}.lora_B.weight"] @ tensors[f"base_model.model.{module}.lora_A.weight"]
    expected = base.read(f"{module}.weight") + config["lora_alpha"] / config["r"] * product
    np.testing.assert_allclose(merged.read(f"{module}.weight"), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(product).max() > 0
    assert (merged.read("model.norm.weight") == base.read("model.norm.weight")).all()
    assert merged.names == base.names


def test_b7_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    other = Weights(weight_files(tiny_llama(tmp_path / "other", shape=WIDE)))
    with pytest.raises(Refused) as caught:
        adapters.Merged(other, tiny_adapter(tmp_path / "adapter"))
    assert caught.value.reason == "ADAPTER_INVALID"


def test_a_model_is_compressed_and_measured_by_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base, before = tiny_llama(tmp_path / "base", shape=WIDE, endless=True), tmp_path / "before.gguf"
    config = llama.parse_config(json.loads((base / "config.json").read_bytes()))
    llama.write_gguf(base, Weights(weight_files(base)), config, before, name="tiny", licence="")
    out = tmp_path / "out"
    out.mkdir()
    request = {
        "format": "Q4_K_M",
        "base": str(base),
        "adapter": "",
        "out": str(out),
        "before": {"gguf": str(before), "adapter": ""},
    }
    answer = answer_of(request, monkeypatch, capfd)
    made = GgufFile(out / answer["files"]["gguf"])
    assert made.get("general.file_type") == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert answer["types"].keys() >= {"Q4_K", "Q6_K", "F32"}
    assert sum(answer["types"].values()) == len(made.tensors)
    assert answer["after"]["file_bytes"] < answer["before"]["file_bytes"]
    for measured in (answer["before"], answer["after"]):
        assert measured["tokens_per_second"] > 0
        assert measured["prompt_tokens_per_second"] > 0
    original = Weights(weight_files(base)).read("model.layers.0.mlp.down_proj.weight")
    compressed = made.read(made.tensors["blk.0.ffn_down.weight"])
    assert np.abs(original - compressed).max() < 0.1 * np.abs(original).max()


def test_b7_what_cannot_be_compressed_is_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mystery"}')
    request = {
        "format": "Q8_0",
        "base": str(folder),
        "adapter": "",
        "out": str(tmp_path),
        "before": {"gguf": "", "adapter": ""},
    }
    assert answer_of(request, monkeypatch, capfd, status=2)["reason"] == "ARCHITECTURE_UNSUPPORTED"


def answer_of(
    request: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: int = 0,
) -> dict[str, Any]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    assert quantizer.main() == status
    return json.loads(capfd.readouterr().out)
