"""Measures one model in llama.cpp: memory and speed. A process of its own, so that the memory is the model's alone.

    python -m mainspring_modelfiles.gauge MODEL.gguf [ADAPTER.gguf] --threads 2

Prints `{"resident_bytes": n, "prompt_tokens_per_second": x, "tokens_per_second": x, "device": ""}`: what the process
holds more after answering than before loading, and the median of some answers of a fixed length to prompts that share
no beginning.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import secrets
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

_CONTEXT, _PROMPT_WORDS, _ANSWER_TOKENS, _ANSWERS = 512, 96, 48, 5
# With more threads than free cores, a spinning thread keeps the one that it waits for from running.
_SPIN_COUNT = "3000"
_TEXT = "the mill stands where the river turns, and in spring the water is high and the wheel goes round day and night"
_WORDS = _TEXT.split(" ")


def measure(model: Path, adapter: Path | None, threads: int) -> dict[str, float | str]:
    """Loads the model and has it answer."""
    # Read by the OpenMP runtime when it is loaded, which importing xllamacpp does.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    llama: Any = importlib.import_module("xllamacpp")
    before = _resident_bytes()
    folder = Path(tempfile.mkdtemp(prefix="mainspring-gauge-"))
    try:
        server = llama.Server(parameters(llama, model, adapter, threads, folder / "door.sock"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    prompts, answers = [], []
    for number in range(_ANSWERS + 1):
        words = [_WORDS[(number * 7 + place * (number + 3)) % len(_WORDS)] for place in range(_PROMPT_WORDS)]
        wish = {"prompt": f"{number} {' '.join(words)}", "n_predict": _ANSWER_TOKENS, "ignore_eos": True}
        answer = server.handle_completions({**wish, "temperature": 0.0, "cache_prompt": False})
        if number:  # The first one warms up.
            prompts.append(float(answer["timings"]["prompt_per_second"]))
            answers.append(float(answer["timings"]["predicted_per_second"]))
    return {
        "resident_bytes": _resident_bytes() - before,
        "prompt_tokens_per_second": statistics.median(prompts),
        "tokens_per_second": statistics.median(answers),
        "device": f"llama.cpp, {threads} threads, {platform.machine()}",
    }


def parameters(llama: Any, model: Path, adapter: Path | None, threads: int, socket: Path) -> Any:
    """What `xllamacpp.Server` needs for one request at a time; the folder of `socket` may go once it has begun."""
    made = llama.CommonParams()
    made.model.path = str(model)
    if adapter is not None:
        lora = llama.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        made.lora_adapters = [lora]
    made.n_parallel, made.n_ctx, made.n_batch, made.n_ubatch = 1, _CONTEXT, 256, 256
    made.fit_params, made.cache_ram_mib = False, 0
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = threads
    # llama.cpp opens an HTTP door that nobody needs; a socket in a folder of our own opens no port.
    made.hostnames, made.api_keys = [str(socket)], [secrets.token_hex(32)]
    made.ui = made.endpoint_slots = False
    made.verbosity = 1
    return made


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """The command; see the module's text."""
    parser = argparse.ArgumentParser(prog="mainspring_modelfiles.gauge")
    parser.add_argument("model", type=Path)
    parser.add_argument("adapter", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    # Whatever the engine prints must not mix with the answer.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    measured = measure(given.model, given.adapter, given.threads)
    with os.fdopen(answer_fd, "w", encoding="utf-8") as answer:
        json.dump(measured, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
