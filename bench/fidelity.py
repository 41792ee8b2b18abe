"""How close what we serve comes to PyTorch in fp32: next-token distributions on the fixed probe text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.children import child, run
from bench.figures import Bar, Figure, Result
from bench.machine import ROOT, TRAIN_PYTHON, TRITON_PYTHON
from mainspring_evaluator.domain.fidelity import Distribution, Position, compare, parse_probe
from mainspring_modelfiles.probe import TOP
from mainspring_testkit.servers import scratch_folder

MAX_MEAN_KL_NATS = 0.1
"""The release gate's default bound (registry.v1.ReleasePolicy)."""
_WORKERS = ROOT / "bench" / "workers"


async def measure() -> Result:
    """Compares each encoding, and an adapter on what we serve. Nothing here varies, so it is measured once."""
    async with scratch_folder("bench") as folder:
        packaged = json.loads(await run(TRAIN_PYTHON, _WORKERS / "reference.py", folder, within_s=600))
        served, adapter = str(folder / "model" / "model.gguf"), str(folder / "adapter.gguf")
        base, adapted = (parse_probe((folder / name).read_bytes()) for name in ("base.json", "adapted.json"))
        # Name, file, adapter, reference, whether the gate's bound holds for it.
        made = (
            ("Q8_0, which we serve", served, "", base, True),
            ("Q4_1, as packaged", packaged, "", base, False),
            ("Q8_0 with an adapter, against PEFT", served, adapter, adapted, True),
            ("the same adapter left out, for scale", served, "", adapted, False),
        )
        figures: list[Figure] = []
        for what, gguf, on_it, probe, bar in made:
            figures += _compared(what, probe, await _engine(folder, gguf, on_it, probe), bar=bar)
    return Result("fidelity", figures, {"positions": len(base), "top": TOP, "reference": "transformers fp32"})


async def _engine(folder: Path, gguf: str, adapter: str, probe: Sequence[Position]) -> list[Distribution]:
    """The engine's distributions of the next token after each prefix."""
    spec = {"kind": "generate", "gguf": gguf, "adapter": adapter, "context_tokens": 2048, "slots": 1, "threads": 2}
    sampling = {"temperature": 0, "max_tokens": 1, "logprobs": TOP}
    async with child(folder / "engine.log", TRITON_PYTHON, _WORKERS / "engine.py") as engine:
        engine.send(spec)
        assert await engine.receive(within_s=60) == "ready"
        engine.send({"prompts": [p.prefix for p in probe], "concurrency": 1, "sampling": sampling})
        answer: dict[str, Any] = await engine.receive(within_s=300)
    return [dict(map(tuple, request["first_token"])) for request in answer["requests"]]


def _compared(
    what: str, probe: Sequence[Position], engine: Sequence[Distribution], *, bar: bool = False
) -> list[Figure]:
    pairs = [(position.reference, made) for position, made in zip(probe, engine, strict=True)]
    found = compare(pairs)
    assert found is not None, "a probe has positions"
    return [
        Figure(f"mean KL: {what}", "nats", found.mean_kl_nats, bar=Bar(MAX_MEAN_KL_NATS) if bar else None),
        Figure(f"top-1 agreement: {what}", "share", found.top1_agreement),
    ]
