"""Merging adapters, by the library of model files in this environment, which has what it needs for that."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.merger import Part, Wish, run
from mainspring_modelfiles.refusal import Refused
from mainspring_training_worker.model import load_base, write_adapter

NARROW = "model.layers.0.self_attn.k_proj"
"""Its 32 rows bear no more than the rank that the merged adapter gets, so nothing of it is cut off."""


def adapter(folder: Path, base: Path, seed: int, **changes: Any) -> Path:
    """An adapter with random weights."""
    shape: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = LoraConfig(**{**shape, **changes})
    torch.manual_seed(seed)
    made: Any = get_peft_model(load_base(base, "fp32"), config)
    with torch.no_grad():
        weights = {
            name.replace(".default", ""): torch.randn_like(parameter) * 0.1
            for name, parameter in made.named_parameters()
            if "lora_" in name
        }
    write_adapter(folder, weights, config, "projects/p/models/b/versions/1")
    return folder


def products(base: Path, folder: Path) -> dict[str, Tensor]:
    """What an adapter adds to each matrix of the base."""
    plain = AutoModelForCausalLM.from_pretrained(base).state_dict()
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    merged = model.merge_and_unload().state_dict()
    return {name.removesuffix(".weight"): merged[name] - plain[name] for name in plain}


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, atol=1e-5)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[Part]:
    """Two adapters of different ranks and scales."""
    folder = tmp_path_factory.mktemp("parts")
    first = adapter(folder / "first", tiny_model, 1, use_rslora=True)
    second = adapter(folder / "second", tiny_model, 2, r=20, lora_alpha=10)
    return [Part(first, 0.7), Part(second, -0.5)]


def merge(
    folder: Path, base: Path, parts: list[Part], method: str, density: float = 0.4, seed: int = 3
) -> dict[str, str]:
    folder.mkdir()
    files, _ = run(Wish(method, density, seed, 0), base, "projects/p/models/b/versions/1", parts, folder)
    return files


def expected(method: str, deltas: list[Tensor], weights: list[float], density: float) -> Tensor:
    """The published rules, on whole matrices."""
    if method == "LINEAR":
        return sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))  # type: ignore[return-value]
    kept: list[Tensor] = []
    for delta in deltas:
        least = delta.abs().flatten().sort(descending=True).values[int(density * delta.numel()) - 1]
        kept.append(torch.where(delta.abs() >= least, delta, torch.zeros(())))
    elected = torch.where(sum(kept) >= 0, 1.0, -1.0)  # type: ignore[arg-type]
    agreeing = [(delta.sign() == elected).float() for delta in kept]
    total = sum(w * delta * one for w, delta, one in zip(weights, kept, agreeing, strict=True))
    return total / torch.clamp(sum(agreeing), min=1.0)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("method", ["LINEAR", "TIES"])
def test_what_a_merged_adapter_adds_is_what_the_rule_says(
    tmp_path: Path, tiny_model: Path, parts: list[Part], method: str
) -> None:
    files = merge(tmp_path / "out", tiny_model, parts, method)
    found = products(tiny_model, tmp_path / "out" / "adapter")
    deltas = [products(tiny_model, part.folder) for part in parts]
    names = [NARROW] if method == "TIES" else [name for name in found if "proj" in name]
    for name in names:
        wanted = expected(method, [delta[name] for delta in deltas], [part.weight for part in parts], 0.4)
        assert wanted.abs().max() > 0.01
        assert close(found[name], wanted), name
    assert set(files) == {
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "adapter.gguf",
        "fidelity_probe.json",
    }
    assert GgufFile(tmp_path / "out" / files["adapter.gguf"]).get("general.architecture", "") == "llama"
    assert len(json.loads((tmp_path / "out" / files["fidelity_probe.json"]).read_bytes())["positions"]) > 10


@pytest.mark.filterwarnings("ignore:The density 1.0")  # That is what is asked for.
def test_dare_draws_by_its_seed_alone_and_takes_everything_at_full_density(
    tmp_path: Path, tiny_model: Path, parts: list[Part]
) -> None:
    digests: list[str] = []
    for number, seed in enumerate((3, 3, 4)):
        out = tmp_path / f"{number}"
        merge(out, tiny_model, parts, "DARE_TIES", seed=seed)
        digests.append(hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    merge(tmp_path / "all", tiny_model, parts, "DARE_LINEAR", density=1.0)
    found = products(tiny_model, tmp_path / "all" / "adapter")[NARROW]
    deltas = [products(tiny_model, part.folder)[NARROW] for part in parts]
    assert close(found, expected("LINEAR", deltas, [part.weight for part in parts], 1.0))


def test_b7_what_cannot_be_added_is_refused(tmp_path: Path, tiny_model: Path, parts: list[Part]) -> None:
    decomposed = adapter(tmp_path / "dora", tiny_model, 3, use_dora=True)
    with pytest.raises(Refused) as caught:
        merge(tmp_path / "out", tiny_model, [parts[0], Part(decomposed, 1.0)], "LINEAR")
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"
    (tmp_path / "none").mkdir()
    with pytest.raises(Refused) as missing:
        merge(tmp_path / "out2", tiny_model, [parts[0], Part(tmp_path / "none", 1.0)], "LINEAR")
    assert missing.value.reason == "ADAPTER_INVALID"
