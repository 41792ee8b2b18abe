"""Merges adapters of one base into one: reads a request from stdin, writes its files, and prints what it made.

    python -m mainspring_modelfiles.merger < request.json

Request: `{"method": "LINEAR" | "TIES" | "DARE_LINEAR" | "DARE_TIES", "density": 0.5, "seed": 0, "rank": 0, "base": "/hf
folder", "base_name": "", "adapters": [{"folder": "/PEFT folder", "weight": 1.0}, ...], "out": "/folder"}`.

PEFT's `add_weighted_adapter` computes it, always from the products B A and never from the factors alone, whose sum is
another thing than the sum of the products: LINEAR is the exact weighted sum, its rank the sum of the ranks; TIES
(Yadav et al. 2023, arXiv:2306.01708) and DARE (Yu et al. 2023, arXiv:2311.03099) work on the products, which are then
brought down to `rank` by their largest singular values (0: the sum of the ranks, as far as the matrices go).

Exit status 0 prints `{"files": {role: path below out}, "rank": 32}`; status 2 prints `{"reason": "", "message": ""}`
and means that they cannot be merged. Any other status is a failure, told on stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_modelfiles import adapters, reference
from mainspring_modelfiles.program import answer
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.sources import read_json

_SUM = "cat"
_METHODS = {"LINEAR": _SUM, "TIES": "ties_svd", "DARE_LINEAR": "dare_linear_svd", "DARE_TIES": "dare_ties_svd"}
_MERGED = "merged"
_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class Part:
    """One adapter and how much of it is taken."""

    folder: Path
    weight: float


@dataclass(frozen=True)
class Wish:
    """How adapters are merged; see the module's text."""

    method: str
    density: float
    seed: int
    rank: int


def run(wish: Wish, base: Path, base_name: str, parts: Sequence[Part], out: Path) -> tuple[dict[str, str], int]:
    """Writes adapter, GGUF adapter and probe below `out`; returns files by role, and the adapter's rank.

    Raises:
        Refused: MERGER_NOT_INSTALLED, this interpreter lacks PEFT; ADAPTERS_DIFFER, or what reading the files raises.
    """
    try:
        torch: Any = importlib.import_module("torch")
        peft: Any = importlib.import_module("peft")
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as err:
        message = f"merging needs {err.name}: install 'mainspring-modelfiles[merge]' in the environment that merges"
        raise Refused("MERGER_NOT_INSTALLED", message) from err
    ranks = [_rank(part.folder) for part in parts]
    transformers.utils.logging.disable_progress_bar()
    causal: Any = transformers.AutoModelForCausalLM
    model: Any = causal.from_pretrained(base, dtype=torch.float32)
    names = [f"part{number}" for number in range(len(parts))]
    try:
        model = peft.PeftModel.from_pretrained(model, str(parts[0].folder), adapter_name=names[0])
        for name, part in zip(names[1:], parts[1:], strict=True):
            model.load_adapter(str(part.folder), adapter_name=name)
        rank = _merge(torch, model, wish, names, [part.weight for part in parts], ranks)
    except (ValueError, KeyError, RuntimeError) as err:
        raise Refused("ADAPTERS_DIFFER", f"these adapters cannot be merged: {err}"[:500]) from err
    folder = out / "adapter"
    _write(peft, model, folder, base_name)
    adapters.convert(folder, base, out / "adapter.gguf")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base)
    reference.write_probe(out / "fidelity_probe.json", model.eval(), tokenizer)
    files = {f"adapter/{name}": f"adapter/{name}" for name in _FILES}
    return files | {name: name for name in ("adapter.gguf", "fidelity_probe.json")}, rank


def _merge(torch: Any, model: Any, wish: Wish, names: list[str], weights: list[float], ranks: list[int]) -> int:
    """Adds the merged adapter and makes it the active one; returns its rank."""
    combination, rank = _METHODS[wish.method], sum(ranks)
    if combination != _SUM:
        narrowest = min(min(module.weight.shape) for name, module in model.named_modules() if _is_adapted(name, module))
        rank = min(wish.rank or rank, narrowest)
    # The new adapter's configuration is the first one's; its products are scaled already, so its own scale must be 1.
    # The loaded layers keep the scale that they were loaded with.
    model.peft_config[names[0]].use_rslora = False
    model.peft_config[names[0]].lora_dropout = 0.0
    torch.manual_seed(wish.seed)
    model.add_weighted_adapter(
        names,
        weights,
        _MERGED,
        combination_type=combination,
        svd_rank=rank,
        svd_full_matrices=False,
        density=wish.density,
    )
    model.set_adapter(_MERGED)
    return rank


def _is_adapted(name: str, module: Any) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "weight") and name != ""


def _rank(folder: Path) -> int:
    config = read_json(folder, "adapter_config.json")
    if config is None or config.get("peft_type") != "LORA":
        raise Refused("ADAPTER_INVALID", "what is merged must be LoRA adapters as PEFT saves them")
    if config.get("use_dora"):
        raise Refused(
            "ADAPTER_UNSUPPORTED", "weight-decomposed adapters have no product that could be added; leave out"
        )
    return int(config["r"])


def _write(peft: Any, model: Any, folder: Path, base_name: str) -> None:
    """The merged adapter as a PEFT folder; the same weights give the same bytes."""
    safetensors: Any = importlib.import_module("safetensors.torch")
    folder.mkdir()
    weights = peft.get_peft_model_state_dict(model, adapter_name=_MERGED, save_embedding_layers=False)
    kept = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    (folder / _FILES[0]).write_bytes(safetensors.save(kept, metadata={"format": "pt"}))
    described = {
        **model.peft_config[_MERGED].to_dict(),
        "base_model_name_or_path": base_name,
        "inference_mode": True,
    }
    text = json.dumps(described, indent=2, sort_keys=True, default=_plain)
    (folder / _FILES[1]).write_text(text + "\n")


def _plain(value: object) -> object:
    # Sets print in another order in each process.
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def main() -> int:
    """The command; see the module's text."""
    # Nothing is ever fetched from outside.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # PEFT imports it when it is there, which takes as long as all else together.
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # How Python marks what must not be imported.
    return answer(_made)


def _made(request: dict[str, Any]) -> dict[str, Any]:
    wish = Wish(request["method"], request["density"], request["seed"], request["rank"])
    parts = [Part(Path(part["folder"]), part["weight"]) for part in request["adapters"]]
    files, rank = run(wish, Path(request["base"]), request["base_name"], parts, Path(request["out"]))
    return {"files": files, "rank": rank}


if __name__ == "__main__":
    sys.exit(main())
