"""Where a run computes: on the processors, or on one CUDA GPU."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from torch import Tensor

from mainspring_training_worker.estimate import available_bytes
from mainspring_training_worker.spec import Refused

CPU = torch.device("cpu")
_GPU = torch.device("cuda", 0)
"""The first of those that this process sees; which one that is, is the environment's choice (CUDA_VISIBLE_DEVICES)."""


def choose_device(wanted: str, *, alone: bool) -> torch.device:
    """What to compute on; `auto` takes a GPU when there is one that torch can use.

    Args:
        wanted: `cpu`, `cuda` or `auto`.
        alone: Whether this process learns the run by itself; several of them add their gradients on processors.

    Raises:
        Refused: DEVICE_UNAVAILABLE, a GPU is wanted and cannot be used.
    """
    return _chosen(wanted, usable=torch.cuda.is_available(), alone=alone)


def _chosen(wanted: str, *, usable: bool, alone: bool) -> torch.device:
    if wanted == "cuda" and not usable:
        message = "a GPU is asked for, and this torch sees none; install a CUDA build of torch and the driver, or set"
        raise Refused("DEVICE_UNAVAILABLE", f"{message} the trainer's `device` to auto or cpu")
    if wanted == "cuda" and not alone:
        message = "several workers learn a run together on processors only; use one worker, or set `device` to cpu"
        raise Refused("DEVICE_UNAVAILABLE", message)
    return _GPU if wanted != "cpu" and usable and alone else CPU


def on_gpu(device: torch.device) -> bool:
    """Whether it is a GPU."""
    return device.type == "cuda"


def described(device: torch.device) -> dict[str, str]:
    """What a report says of it; a GPU with its name and the identity by which its driver knows it."""
    if not on_gpu(device):
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {"device": str(properties.name), "gpu": f"GPU-{properties.uuid}"}


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there; to a GPU by way of pinned memory, so that the processor need not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu(device) else tensor


def padded(texts: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Texts as rows of one width, filled up at their ends, and which places are of a text (1) or not (0); there."""
    width = max(map(len, texts))
    tokens = torch.full((len(texts), width), padding)
    seen = torch.zeros_like(tokens)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
        seen[row, : len(text)] = 1
    return moved(tokens, device), moved(seen, device)


def free_bytes(device: torch.device) -> int:
    """Memory that this process may take there; what it keeps of a GPU's without need is given back first."""
    if not on_gpu(device):
        return available_bytes()
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def all_bytes(device: torch.device) -> int | None:
    """Memory that a GPU has, others' included; None for processors."""
    return torch.cuda.mem_get_info(device)[1] if on_gpu(device) else None


def peak_bytes(device: torch.device) -> int | None:
    """The most that this process has held of a GPU's memory; None for processors."""
    return torch.cuda.max_memory_reserved(device) if on_gpu(device) else None


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of all generators that a run draws from, by name; on the processors' side of memory."""
    states = {"rng": torch.get_rng_state()}
    return {**states, "rng_gpu": torch.cuda.get_rng_state(device)} if on_gpu(device) else states


def restore_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Puts generators back; a GPU's stays as it is when the states come from processors."""
    torch.set_rng_state(states["rng"])
    if on_gpu(device) and "rng_gpu" in states:
        torch.cuda.set_rng_state(states["rng_gpu"], device)
