"""One choice of how the worker tunes on processors, changed, and measured; prints one JSON object.

    .venv-train/bin/python bench/workers/choices.py OUT CHOICE NUMBER

OUT is what `tuning.py prepare` filled, NUMBER tells repeats apart. The first steps, in which everything is loaded or
compiled, do not count.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tuning

_WORKER = "mainspring_training_worker"


def _module(name: str) -> Any:
    return importlib.import_module(f"{_WORKER}.{name}")


def _asked(**changes: Any) -> None:
    spec: Any = _module("spec").Spec
    read = spec.read
    spec.read = lambda path: replace(read(path), **changes)


def _other_precision() -> None:
    model = _module("model")
    _asked(precision="fp32" if model.choose_precision("auto") == "bf16" else "bf16")


def _ungrouped() -> None:
    """Rows of a step in the order of the plan, as many as their longest allows."""

    def groups(examples: Any, max_tokens: int, *, at_least: int = 1) -> Any:
        group: list[Any] = []
        for example in examples:
            if group and max(each.width for each in [*group, example]) * (len(group) + 1) > max_tokens:
                yield group
                group = []
            group.append(example)
        yield group

    _module("methods.supervised").micro_batches = groups


def _after_init(change: Callable[[Any], None]) -> None:
    tunable: Any = _module("model").Tunable
    begin = tunable.__init__

    def init(self: Any, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        change(self)

    tunable.__init__ = init


def _everywhere(tunable: Any) -> None:
    tunable._head_alone = False


def _compiled(tunable: Any) -> None:
    torch: Any = importlib.import_module("torch")
    tunable._backbone = torch.compile(tunable._backbone, dynamic=True)


CHOICES: dict[str, Callable[[], None]] = {
    "as-it-comes": lambda: None,
    "512-tokens": partial(_asked, micro_batch_tokens=512),
    "1024-tokens": partial(_asked, micro_batch_tokens=1024),
    "one-thread": partial(_asked, threads=1),
    "other-precision": _other_precision,
    "packing": lambda: None,
    "ungrouped": _ungrouped,
    "peft-layers": partial(tuning.choose_layers, quick=False),
    "all-positions": partial(_after_init, _everywhere),
    "compiled": partial(_after_init, _compiled),
}


def main(out: Path, choice: str, number: str) -> dict[str, Any]:
    """Tunes once with that choice."""
    CHOICES[choice]()
    measured = tuning.ours(out, choice, number, device="cpu", late=True)
    return measured | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
