"""What a run leaves: an adapter or a whole model, each in two formats, the probe of its distributions, the report."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from mainspring_modelfiles import adapters, llama, refusal
from mainspring_modelfiles.reference import write_probe
from mainspring_modelfiles.safetensors_file import Weights, weight_files
from mainspring_training_worker import embedding
from mainspring_training_worker.crash import crash_point
from mainspring_training_worker.model import load_base, read_adapted, write_adapter
from mainspring_training_worker.spec import Refused, Spec

_PROBE = "fidelity_probe.json"
_BESIDE_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Made:
    """What a run has learned.

    Attributes:
        spec: What was asked for.
        base: Hugging Face folder of the model that it began with.
        tokenizer: That model's.
        config: The adapter's configuration; None when the whole model was learned.
        weights: The adapter's weights, or the model's.
    """

    spec: Spec
    base: Path
    tokenizer: Any
    config: LoraConfig | None
    weights: dict[str, Tensor]


def write(made: Made, phase: Callable[[str], None]) -> dict[str, Path]:
    """Writes the files of a version; returns them by role.

    A reward model answers nothing, so it has neither a form for an engine nor a probe. Weight-decomposed adapters
    (DoRA) have no form that llama.cpp reads, so they are merged into a whole model as well.

    Raises:
        Refused: They cannot be written for this base.
    """
    spec, folder = made.spec, made.spec.output / "adapter"
    if spec.method == embedding.METHOD:
        return embedding.write(made.base, made.weights, spec.output)
    if made.config is None:
        model = load_base(made.base, "fp32")
        model.load_state_dict(made.weights, strict=False)
        return _whole(made, model, phase)
    write_adapter(folder, made.weights, made.config, spec.base_model_version)
    crash_point("training-worker:mid-result")
    names = ("adapter_model.safetensors", "adapter_config.json")
    files = {f"adapter/{name}": folder / name for name in names}
    if spec.method == "REWARD_MODEL":
        return files
    adapted = read_adapted(load_base(made.base, "fp32"), folder)
    if spec.lora.weight_decomposed:
        return files | _whole(made, adapted.merge_and_unload(), phase)
    files["adapter.gguf"] = write_gguf(spec.output, folder, made.base)
    phase("measuring reference distributions")
    return files | {_PROBE: write_probe(spec.output / _PROBE, adapted, made.tokenizer)}


def _whole(made: Made, model: Any, phase: Callable[[str], None]) -> dict[str, Path]:
    """A model of its own: Hugging Face files in the base's precision, and one file for llama.cpp."""
    folder = made.spec.output / "hf"
    folder.mkdir()
    for name in _BESIDE_WEIGHTS:
        if (made.base / name).exists():
            shutil.copyfile(made.base / name, folder / name)
    described = json.loads((made.base / "config.json").read_text())
    kept = getattr(torch, str(described.get("dtype") or described.get("torch_dtype") or "float32"))
    tensors = {name: tensor.detach().to(kept).contiguous() for name, tensor in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    gguf = made.spec.output / "model.gguf"
    try:
        config = llama.parse_config(described)
        llama.write_gguf(folder, Weights(weight_files(folder)), config, gguf, name=folder.name, licence="")
    except refusal.Refused as err:
        raise Refused(err.reason, err.message) from err
    phase("measuring reference distributions")
    reference = load_base(folder, "fp32").eval()
    files = {f"hf/{path.name}": path for path in sorted(folder.iterdir())}
    return files | {"gguf": gguf, _PROBE: write_probe(made.spec.output / _PROBE, reference, made.tokenizer)}


def write_gguf(folder: Path, adapter: Path, base: Path) -> Path:
    """The PEFT adapter as llama.cpp reads it.

    Raises:
        Refused: It cannot be written for this base; the reason is that of mainspring-modelfiles.
    """
    target = folder / "adapter.gguf"
    try:
        adapters.convert(adapter, base, target)
    except refusal.Refused as err:
        raise Refused(err.reason, err.message) from err
    return target


def write_report(folder: Path, files: Mapping[str, Path], **facts: Any) -> Path:
    """Curves, counts, versions and digests."""
    report = {
        "schema": "mainspring.training_report.v1",
        **facts,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "files": {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in files.items()},
    }
    path = folder / "training_report.json"
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    return path
