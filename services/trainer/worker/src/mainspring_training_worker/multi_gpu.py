"""A run on several GPUs of one machine, checked without any: `python -m mainspring_training_worker.multi_gpu --help`.

Writes the configuration with which `accelerate launch` shards a base over GPUs (FSDP2: Zhao et al. 2023,
arXiv:2304.11277), has Accelerate itself read it, finds by its policy on a model without weights what would be sharded
as one, and estimates each GPU's memory. The worker's own loop computes on processors or one
GPU; nothing here was run on GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.commands import launch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from mainspring_training_worker.process import REFUSED
from mainspring_training_worker.spec import Refused

_CONTEXT_BYTES = 3 << 29
"""What a GPU's driver and the collectives take before anything is computed; a rule of thumb."""
_LAYER_ACTIVATIONS = 34
"""As in `estimate.py`; of one layer only, the others keep their input and compute the rest again."""
_MOST_GPUS = 64


@dataclass(frozen=True)
class Wanted:
    """A run in numbers.

    Attributes:
        base: Hugging Face folder.
        gpus: How many.
        gpu_bytes: Memory of each.
        adaptation: `LORA` or `FULL`.
        rank: Of an adapter.
        tokens: Through the model at once on each GPU.
    """

    base: Path
    gpus: int
    gpu_bytes: int
    adaptation: str
    rank: int
    tokens: int


@dataclass(frozen=True)
class Checked:
    """What a dry run has found.

    Attributes:
        parameters: Of the model, the adapter included.
        learned: Those that change.
        layer: Class that is sharded as one.
        units: How many of these there are.
        unit_parameters: Of the largest unit, or of all that is in none.
        needed_bytes: Memory of each GPU.
    """

    parameters: int
    learned: int
    layer: str
    units: int
    unit_parameters: int
    needed_bytes: int


def config_of(layer: str, gpus: int) -> dict[str, Any]:
    """Accelerate's configuration for so many GPUs of one machine."""
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP",
        "num_machines": 1,
        "num_processes": gpus,
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "bf16",
        "use_cpu": False,
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_transformer_layer_cls_to_wrap": layer,
            "fsdp_reshard_after_forward": True,
            "fsdp_offload_params": False,
            "fsdp_activation_checkpointing": True,
            "fsdp_cpu_ram_efficient_loading": True,
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        },
    }


def dry_run(wanted: Wanted, config: Path) -> Checked:
    """Writes the configuration and checks it.

    Raises:
        Refused: BASE_MODEL_UNUSABLE; CONFIGURATION_UNUSABLE, Accelerate does not take it; OUT_OF_MEMORY, with the
            number of GPUs that would do.
    """
    model = _without_weights(wanted)
    layer = _layer_of(model)
    config.write_text(yaml.safe_dump(config_of(layer, wanted.gpus), sort_keys=False))
    units = _units(model, config, wanted.gpus)
    sizes = [sum(p.numel() for p in unit.parameters()) for unit in units]
    parameters = sum(p.numel() for p in model.parameters())
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    largest = max(*sizes, parameters - sum(sizes))
    text = model.config.get_text_config()
    shape = _Shape(parameters, learned, largest, text.num_hidden_layers, text.hidden_size, text.vocab_size)
    needed = _needed_bytes(shape, wanted, wanted.gpus)
    if needed > wanted.gpu_bytes:
        counts = range(wanted.gpus + 1, _MOST_GPUS + 1)
        enough = next((n for n in counts if _needed_bytes(shape, wanted, n) <= wanted.gpu_bytes), None)
        advice = f"{enough} of them would do" if enough else "lower the tokens at once, or learn an adapter"
        message = f"each of {wanted.gpus} GPUs needs about {_gb(needed)} and has {_gb(wanted.gpu_bytes)}; {advice}"
        raise Refused("OUT_OF_MEMORY", message)
    return Checked(parameters, learned, layer, len(units), largest, needed)


@dataclass(frozen=True)
class _Shape:
    parameters: int
    learned: int
    largest: int
    layers: int
    width: int
    vocabulary: int


def _needed_bytes(shape: _Shape, wanted: Wanted, gpus: int) -> int:
    """About the most that one GPU holds.

    Its share of all weights, and of gradients and two moments of those that are learned; the unit that is computed and
    the next one whole; each layer's input, one layer's activations, and the words' scores of all positions.
    """
    held = 4 if wanted.adaptation == "FULL" else 2
    share = (held * (shape.parameters - shape.learned) + 16 * shape.learned) / gpus
    whole = 2 * 2 * shape.largest
    inputs = 2 * wanted.tokens * shape.width * (shape.layers + _LAYER_ACTIVATIONS)
    scores = wanted.tokens * shape.vocabulary * (2 + 4 + 4)
    return int(_CONTEXT_BYTES + share + whole + inputs + scores)


def _without_weights(wanted: Wanted) -> Any:
    try:
        config = AutoConfig.from_pretrained(wanted.base)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            if wanted.adaptation == "LORA":
                model = get_peft_model(model, LoraConfig(r=wanted.rank, target_modules="all-linear"))
    except (OSError, ValueError, KeyError) as err:
        raise Refused("BASE_MODEL_UNUSABLE", f"the base model cannot be read: {err}; import it again"[:500]) from err
    return model


def _layer_of(model: Any) -> str:
    names = sorted(getattr(model, "_no_split_modules", None) or ())
    if not names:
        raise Refused("BASE_MODEL_UNUSABLE", "transformers does not say which layers of this base stay together")
    return ",".join(names)


def _units(model: Any, config: Path, gpus: int) -> list[Any]:
    """The modules that Accelerate would shard as one each, by its own reading of the configuration."""
    try:
        given = launch.launch_command_parser().parse_args(["--config_file", str(config), "-m", "training"])
        arguments, _, _ = launch._validate_launch_command(given)  # pyright: ignore[reportPrivateUsage] - it has no other name.
        with _environment(prepare_multi_gpu_env(arguments)):
            plugin: Any = FullyShardedDataParallelPlugin()
        plugin.set_auto_wrap_policy(model)
    except (ValueError, KeyError, TypeError, SystemExit) as err:
        raise Refused("CONFIGURATION_UNUSABLE", f"Accelerate does not take the configuration: {err}"[:500]) from err
    if (arguments.num_processes, plugin.fsdp_version) != (gpus, 2):
        raise Refused("CONFIGURATION_UNUSABLE", f"Accelerate reads the configuration otherwise: {arguments}"[:500])
    policy = plugin.auto_wrap_policy
    return [m for m in model.modules() if policy(module=m, recurse=False, nonwrapped_numel=0)]


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Has Accelerate find what `accelerate launch` would set."""
    before = dict(os.environ)
    os.environ |= {name: value for name, value in variables.items() if name.startswith(("FSDP_", "ACCELERATE_"))}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def main() -> int:
    """Checks what the arguments describe and prints what was found as JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mainspring_training_worker.multi_gpu", description=__doc__)
    parser.add_argument("base", type=Path, help="Hugging Face folder of the base model")
    parser.add_argument("--gpus", type=int, required=True, choices=range(1, _MOST_GPUS + 1), metavar="N")
    parser.add_argument("--gpu-memory-gb", type=float, default=80.0, help="memory of each")
    parser.add_argument("--adaptation", choices=("LORA", "FULL"), default="LORA")
    parser.add_argument("--rank", type=int, default=16, help="of an adapter")
    parser.add_argument("--tokens", type=int, default=4096, help="through the model at once on each GPU")
    parser.add_argument("--config", type=Path, default=Path("accelerate.yaml"), help="file to write")
    given = parser.parse_args()
    memory = int(given.gpu_memory_gb * 1e9)
    wanted = Wanted(given.base, given.gpus, memory, given.adaptation, given.rank, given.tokens)
    try:
        found = dry_run(wanted, given.config)
    except Refused as refusal:
        sys.stderr.write(f"{refusal.reason}: {refusal.message}\n")
        return REFUSED
    sys.stdout.write(json.dumps({**asdict(found), "config": str(given.config), "run_on_gpus": False}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
