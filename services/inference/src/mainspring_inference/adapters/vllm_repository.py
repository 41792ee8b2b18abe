"""The folder of a model for Triton's vLLM backend: `config.pbtxt`, `1/model.json`, for an adapter `1/multi_lora.json`.

Written after the backend's own `model.py` (github.com/triton-inference-server/vllm_backend). `model.json` becomes the
arguments of vLLM's engine, which finds out by itself how weights are encoded: from `quantization_config` in the
folder's `config.json`. What that backend has not, our tensor `continuation`, is not declared, so that whoever asks for
it is told (`mainspring_answers.triton`).

    python -m mainspring_inference.adapters.vllm_repository /path/of/hf_folder [--adapter /path/of/peft_folder]

prints what would be written, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mainspring_answers.triton import ADAPTER_NAME, ADAPTER_TENSOR
from mainspring_inference.adapters.triton_repository import ANSWER_INPUTS, ANSWER_OUTPUTS, config
from mainspring_svckit.errors import PreconditionFailed

MOST_LOGPROBS = 128
"""Probabilities of one position that may be asked for; vLLM's own limit of 20 is less than a fidelity probe holds."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM has room to set aside."""


@dataclass(frozen=True)
class VllmModel:
    """What vLLM must know of a model.

    Attributes:
        folder: Hugging Face folder, on Triton's machine.
        context_tokens: Longest prompt and answer together.
        adapter_folder: PEFT folder of a LoRA on it, or None.
        rank: Of that LoRA; 0 without one.
        slots: How many requests are computed together.
        memory_share: Of a GPU's memory that it takes, weights and answers together.
    """

    folder: Path
    context_tokens: int
    adapter_folder: Path | None = None
    rank: int = 0
    slots: int = 8
    memory_share: float = 0.4

    def texts(self, name: str) -> Mapping[str, str]:
        """As `triton_repository.Model.texts`."""
        places = {"folder": str(self.folder), "adapter_folder": str(self.adapter_folder or "")}
        # Each question must name the adapter, which this tensor tells whoever asks; the backend does not read it.
        marker = ((ADAPTER_TENSOR, "TYPE_STRING", "[ 1 ]", True),) if self.adapter_folder is not None else ()
        described = config(name, "vllm", "KIND_MODEL", (*ANSWER_INPUTS, *marker), ANSWER_OUTPUTS, places)
        made = {"config.pbtxt": described, "1/model.json": _json(self.engine_arguments())}
        if self.adapter_folder is not None:
            made["1/multi_lora.json"] = _json({ADAPTER_NAME: str(self.adapter_folder)})
        return made

    def engine_arguments(self) -> dict[str, object]:
        """Arguments of vLLM's engine; an unknown one keeps it from starting."""
        arguments: dict[str, object] = {
            "model": str(self.folder),
            "tokenizer": str(self.folder),
            "load_format": "safetensors",
            "trust_remote_code": False,
            "dtype": "auto",
            "max_model_len": self.context_tokens,
            "max_num_seqs": self.slots,
            "max_logprobs": MOST_LOGPROBS,
            "gpu_memory_utilization": self.memory_share,
        }
        if self.adapter_folder is not None:
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(self.rank)}
        return arguments


def room_for(rank: int) -> int:
    """The smallest rank of vLLM's that holds an adapter's.

    Raises:
        PreconditionFailed: ADAPTER_RANK_UNSUPPORTED, it is larger than all of them.
    """
    for room in RANKS:
        if rank <= room:
            return room
    message = f"the adapter has rank {rank}, vLLM serves at most {RANKS[-1]}; compress the version, which merges it"
    raise PreconditionFailed("ADAPTER_RANK_UNSUPPORTED", message)


def rank_of(adapter_config: bytes) -> int:
    """The largest rank that a PEFT adapter's configuration gives.

    Raises:
        PreconditionFailed: MODEL_LOAD_FAILED, it is no configuration of a LoRA.
    """
    try:
        read = json.loads(adapter_config)
        ranks = [int(read["r"]), *map(int, (read.get("rank_pattern") or {}).values())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        message = "the adapter's adapter_config.json is no configuration of a LoRA; train it again"
        raise PreconditionFailed("MODEL_LOAD_FAILED", message) from err
    return max(ranks)


def _json(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=2) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The dry run; see the module's text."""
    parser = argparse.ArgumentParser(prog="mainspring_inference.adapters.vllm_repository")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--name", default="model")
    parser.add_argument("--context-tokens", type=int, default=2048)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--memory-share", type=float, default=0.4)
    given = parser.parse_args(arguments)
    rank = rank_of((given.adapter / "adapter_config.json").read_bytes()) if given.adapter else 0
    model = VllmModel(
        given.folder.resolve(), given.context_tokens, given.adapter, rank, given.slots, given.memory_share
    )
    for place, text in model.texts(given.name).items():
        sys.stdout.write(f"--- {given.name}/{place}\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
