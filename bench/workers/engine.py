"""The bare engine, in this process, without Triton. Run in the engine's environment.

    .venv-triton/bin/python bench/workers/engine.py

The first line on stdin is a model as `mainspring_engine.spec.ModelSpec` reads it; the answer is `"ready"`. Each further
line is `{"prompts": [...], "concurrency": n, "sampling": {...}}` with sampling parameters as Triton's door takes them;
the answer is `{"seconds": s, "requests": [...]}`, a request being `{"input_tokens", "output_tokens", "first_s",
"finish", "first_token": [[token id, log-probability], ...]}` in the order of the prompts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mainspring_engine.llama_cpp import LlamaCppEngine
from mainspring_engine.sampling import parse_sampling
from mainspring_engine.spec import ModelSpec


def main() -> None:
    """Answers line by line until stdin ends."""
    # Whatever llama.cpp prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = LlamaCppEngine(ModelSpec.parse(sys.stdin.readline()))
    print('"ready"', file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(engine, json.loads(line))), file=answers, flush=True)


def _answer(engine: LlamaCppEngine, wish: dict[str, Any]) -> dict[str, Any]:
    sampling = parse_sampling(json.dumps(wish["sampling"]))

    def one(prompt: str) -> dict[str, Any]:
        began = time.monotonic()
        pieces_at: list[float] = []
        made = engine.generate(prompt, sampling, lambda _: pieces_at.append(time.monotonic()), lambda: False)
        return {
            "input_tokens": made.input_tokens,
            "output_tokens": made.output_tokens,
            "first_s": (pieces_at[0] if pieces_at else time.monotonic()) - began,
            "finish": made.finish_reason,
            "first_token": made.first_token,
        }

    began = time.monotonic()
    with ThreadPoolExecutor(wish["concurrency"]) as pool:
        requests = list(pool.map(one, wish["prompts"]))
    return {"seconds": time.monotonic() - began, "requests": requests}


if __name__ == "__main__":
    main()
