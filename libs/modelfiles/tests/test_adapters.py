"""Adapters: what the engine adds to each weight is what PEFT adds. That the engine then says what PEFT says is tested
through Triton, in services/inference/tests/test_triton.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from mainspring_modelfiles import adapters
from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.refusal import Refused
from mainspring_testkit.tiny import tiny_adapter, tiny_llama

Array = npt.NDArray[np.float32]
TARGETS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny_adapter(tmp_path / "adapter")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "base")


def edit(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def added(path: Path, layer: int, module: str) -> Array:
    """What llama.cpp adds to a weight: alpha / rank · B · A, with the rows in Hugging Face's order again."""
    model = GgufFile(path)
    at = f"blk.{layer}.{TARGETS[module]}.weight"
    a, b = (model.read(model.tensors[f"{at}.lora_{m}"]) for m in "ab")
    delta: Array = np.float32(model.get("adapter.lora.alpha") / a.shape[0]) * (b @ a)
    if module in HEADS:
        size = len(delta) // HEADS[module]
        order = [
            h * size + i + part * size // 2 for h in range(HEADS[module]) for i in range(size // 2) for part in (0, 1)
        ]
        delta = delta[np.argsort(order)]
    return delta


def peft(adapter: Path, layer: int, module: str, scale: float) -> Array:
    weights = load_file(adapter / "adapter_model.safetensors")
    at = f"base_model.model.model.layers.{layer}.{module}"
    return np.float32(scale) * (weights[f"{at}.lora_B.weight"] @ weights[f"{at}.lora_A.weight"])


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (16 / 8**0.5, 16 / 8**0.5)),
        ({"alpha_pattern": {"q_proj": 4}}, (0.5, 2.0)),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 4}}, (2.0, 2.0)),
        ({"lora_alpha": 4.5}, (4.5 / 8, 4.5 / 8)),
    ],
)
def test_the_engine_adds_to_each_weight_what_peft_adds(
    adapter: Path, base: Path, tmp_path: Path, changes: dict[str, Any], scales: tuple[float, float]
) -> None:
    edit(adapter, **changes)
    out = tmp_path / "adapter.gguf"
    adapters.convert(adapter, base, out)
    np.testing.assert_allclose(
        added(out, 0, "self_attn.q_proj"), peft(adapter, 0, "self_attn.q_proj", scales[0]), atol=1e-5
    )
    for module in TARGETS.keys() - {"self_attn.q_proj"}:
        np.testing.assert_allclose(added(out, 1, module), peft(adapter, 1, module, scales[1]), atol=1e-5)


def test_the_file_says_that_it_is_an_adapter_for_a_llama(adapter: Path, base: Path, tmp_path: Path) -> None:
    adapters.convert(adapter, base, tmp_path / "a.gguf")
    adapters.convert(adapter, base, tmp_path / "b.gguf")
    made = GgufFile(tmp_path / "a.gguf")
    named = [made.get(key) for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")]
    assert named == ["llama", "adapter", "lora", 16.0]
    assert len(made.tensors) == 2 * 2 * len(TARGETS)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"fan_in_fan_out": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"peft_type": "IA3"},
    ],
)
def test_an_adapter_that_the_engine_cannot_add_is_refused(
    adapter: Path, base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    edit(adapter, **changes)
    with pytest.raises(Refused) as caught:
        adapters.convert(adapter, base, tmp_path / "a.gguf")
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"drop": A}, "ADAPTER_INVALID"),
        ({"shape": A}, "ADAPTER_INVALID"),
        ({"add": "base_model.model.lm_head.weight"}, "ADAPTER_UNSUPPORTED"),
        ({"add": "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"}, "ADAPTER_INVALID"),
        ({"nan": A}, "WEIGHTS_NOT_FINITE"),
        ({"empty": ""}, "ADAPTER_INVALID"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(
    adapter: Path, base: Path, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    for what, name in change.items():
        match what:
            case "drop":
                del weights[name]
            case "shape":
                weights[name] = weights[name][:3].copy()
            case "add":
                weights[name] = np.ones((2, 2), np.float32)
            case "nan":
                weights[name][0, 0] = np.inf
            case _:
                weights = {}
    save_file(weights, path)
    with pytest.raises(Refused) as caught:
        adapters.convert(adapter, base, tmp_path / "a.gguf")
    assert caught.value.reason == reason


def test_an_adapter_for_another_base_is_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    config = base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_bytes()), "num_hidden_layers": 1}))
    with pytest.raises(Refused, match=r"tunes model\.layers\.1\."):
        adapters.convert(adapter, base, tmp_path / "a.gguf")


def test_an_adapter_with_other_sizes_than_its_base_is_refused(adapter: Path, base: Path, tmp_path: Path) -> None:
    config = base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_bytes()), "hidden_size": 128}))
    with pytest.raises(Refused) as caught:
        adapters.convert(adapter, base, tmp_path / "a.gguf")
    assert caught.value.reason == "ADAPTER_INVALID"


def test_a_folder_without_an_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        adapters.convert(base, base, tmp_path / "a.gguf")
    assert caught.value.reason == "ADAPTER_INVALID"
