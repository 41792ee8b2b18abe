"""Whole-number weights for GPUs, by the library of model files in this environment, which has what it needs."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_merging import adapter
from transformers import AutoModelForCausalLM

from mainspring_modelfiles import adapters, llama, losses, packed, quantizer
from mainspring_modelfiles.packed import Precision
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import SafetensorsFile, Weights, weight_files

MATRIX = "model.layers.1.mlp.down_proj"


def written(base: Path, precision: Precision, out: Path) -> tuple[dict[str, int], dict[str, Any]]:
    types = packed.write_folder(base, Weights(weight_files(base)), precision, out)
    return types, json.loads((out / "config.json").read_bytes())


@pytest.mark.parametrize(("precision", "bits", "error"), [(Precision.INT8, 8, 0.005), (Precision.INT4, 4, 0.1)])
def test_what_is_written_is_read_back_as_the_same_model_within_the_step_of_its_bits(
    tmp_path: Path, tiny_model: Path, precision: Precision, bits: int, error: float
) -> None:
    types, config = written(tiny_model, precision, tmp_path / "out")
    assert types == {precision.value: 14, "BF16": 6}
    described = config["quantization_config"]
    assert (described["quant_method"], described["format"]) == ("compressed-tensors", "pack-quantized")
    assert described["ignore"] == ["lm_head"]
    assert described["config_groups"]["group_0"]["weights"]["num_bits"] == bits
    file = SafetensorsFile(tmp_path / "out" / "model.safetensors")
    rows, columns = 64, 128
    assert file.tensors[f"{MATRIX}.weight_packed"].shape == (rows, columns * bits // 32)
    assert file.tensors[f"{MATRIX}.weight_scale"].dtype == "BF16"
    # Rows of the attention are 64 wide and those of the last projection 128, so a group is 64.
    assert file.tensors[f"{MATRIX}.weight_scale"].shape == (rows, 1 if bits == 8 else columns // 64)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]))  # The library decompresses at the first answer.
    before = Weights(weight_files(tiny_model)).read(f"{MATRIX}.weight")
    after = model.get_submodule(MATRIX).weight.float().detach().numpy()
    assert ((after - before) ** 2).mean() ** 0.5 < error * (before**2).mean() ** 0.5 * 2
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()


def test_the_same_model_gives_the_same_bytes_also_in_several_files(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tiny_model, Precision.INT4, tmp_path / "first")
    written(tiny_model, Precision.INT4, tmp_path / "second")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert one == two
    monkeypatch.setattr(packed, "_SHARD_BYTES_MAX", 20_000)
    written(tiny_model, Precision.INT4, tmp_path / "parted")
    files = weight_files(tmp_path / "parted")
    assert len(files) > 2
    assert Weights(files).names == Weights(weight_files(tmp_path / "first")).names
    told = losses.tell(losses.load(tmp_path / "parted"), tiny_model)
    assert told.loss == losses.tell(losses.load(tmp_path / "first"), tiny_model).loss


def test_four_bits_are_rounded_by_the_scale_that_leaves_less_error_than_the_widest(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(out: Path) -> float:
        written(tiny_model, Precision.INT4, out)
        told = losses.load(out)
        with torch.no_grad():
            told(input_ids=torch.tensor([[1]]))
        before = Weights(weight_files(tiny_model)).read(f"{MATRIX}.weight")
        return float(((told.get_submodule(MATRIX).weight.float().detach().numpy() - before) ** 2).mean())

    chosen = error(tmp_path / "chosen")
    monkeypatch.setattr(packed, "_SHRINKS", (1.0,))
    assert chosen < error(tmp_path / "widest")


def test_the_program_merges_an_adapter_and_says_what_was_lost(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lora = adapter(tmp_path / "adapter", tiny_model, 1)
    said = [{"role": "user", "content": "a b"}]
    request = asked(tiny_model, tmp_path, "INT8", adapter=str(lora), samples=[{"messages": said, "text": " c d e"}])
    answer = answer_of(request, monkeypatch, capfd)
    assert {"hf/config.json", "hf/model.safetensors", "hf/tokenizer.json"} <= answer["files"].keys()
    assert (tmp_path / answer["files"]["hf/model.safetensors"]).is_file()
    lost = answer["lost"]
    assert 0 <= lost["mean_kl_nats"] < 0.02
    assert lost["top1_agreement"] > 0.8
    assert lost["positions"] == 48
    assert abs(lost["loss_after"] - lost["loss_before"]) < 0.05
    assert lost["tokens"] > 0
    assert answer["after"]["file_bytes"] < answer["before"]["file_bytes"]
    # It is the merged model that was encoded, not the base.
    base = Weights(weight_files(tiny_model))
    merged = losses.tell(losses.load(tiny_model, weights=adapters.Merged(base, lora)), tiny_model)
    made = losses.tell(losses.load(tmp_path / "hf"), tmp_path / "hf")
    plain = losses.tell(losses.load(tiny_model), tiny_model)
    assert losses.lost(merged, made).mean_kl_nats * 5 < losses.lost(plain, made).mean_kl_nats


def test_b7_what_cannot_be_encoded_is_refused_with_a_reason(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    written(tiny_model, Precision.INT8, tmp_path / "encoded")
    again = asked(tmp_path / "encoded", tmp_path, "INT4")
    assert answer_of(again, monkeypatch, capfd, status=2)["reason"] == "ARCHITECTURE_UNSUPPORTED"
    config = json.loads((tiny_model / "config.json").read_bytes())
    narrow = {**config, "hidden_size": 60, "head_dim": 15, "num_attention_heads": 4}
    shape = llama.parse_config({**narrow, "head_dim": 10})
    with pytest.raises(Refused) as caught:
        packed.scheme_of(Precision.INT4, shape)
    assert caught.value.reason == "WEIGHTS_NOT_PACKABLE"
    monkeypatch.setitem(sys.modules, "compressed_tensors.quantization", None)
    with pytest.raises(Refused) as missing:
        written(tiny_model, Precision.INT8, tmp_path / "missing")
    assert missing.value.reason == "PACKER_NOT_INSTALLED"


def asked(base: Path, out: Path, format_: str, **changes: Any) -> dict[str, Any]:
    wanted = {"format": format_, "base": str(base), "adapter": "", "out": str(out), "samples": [], "before": {}}
    return {**wanted, **changes}


def answer_of(
    request: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], status: int = 0
) -> dict[str, Any]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    assert quantizer.main() == status
    return json.loads(capfd.readouterr().out)


def test_b3_samples_that_are_too_long_or_that_the_template_refuses_do_not_end_the_comparison(
    tmp_path: Path, tiny_model: Path
) -> None:
    model = losses.load(tiny_model)
    long = losses.Sample(({"role": "user", "content": "word " * 3000},), "the answer")
    told = losses.tell(model, tiny_model, [long])
    assert 0 < told.tokens < 100
    shutil.copytree(tiny_model, tmp_path / "strict")
    (tmp_path / "strict" / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    ours = losses.tell(model, tiny_model)
    refused = losses.tell(model, tmp_path / "strict", [long])
    assert (refused.loss, refused.tokens) == (ours.loss, ours.tokens)
