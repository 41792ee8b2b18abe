"""Compresses one model: reads a request from stdin, writes one GGUF file, and prints what it made.

    python -m mainspring_modelfiles.quantizer < request.json

Request: `{"format": "Q8_0" | "Q6_K" | "Q4_K_M", "base": "/hf folder", "adapter": "" | "/PEFT folder", "out": "/folder",
"before": {"gguf": "/file", "adapter": "" | "/file"}}`. The adapter is merged into the base in float32; then the whole
is encoded. `before` is what serves now; both are measured by the engine, one after the other.

Exit status 0 prints `{"files": {"gguf": path below out}, "types": {type: tensors}, "before": measured, "after":
measured}`, where measured is the file sizes and what `gauge` says; status 2 prints `{"reason": "", "message": ""}` and
means that the model cannot be compressed. Any other status is a failure, told on stderr.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from mainspring_modelfiles import adapters, llama, quantization
from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.program import answer
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import Weights, weight_files
from mainspring_modelfiles.sources import read_json

_GGUF = "model.gguf"


def run(format_: quantization.Format, base: Path, adapter: Path | None, out: Path) -> dict[str, int]:
    """Writes the compressed model into the folder `out`; returns how many tensors have which type.

    Raises:
        Refused: The files are none that can be compressed.
    """
    raw = read_json(base, "config.json")
    if raw is None:
        raise Refused("SOURCE_UNKNOWN", f"{base.name} has no config.json; name a Hugging Face folder")
    config = llama.parse_config(raw)
    weights: llama.TensorSource = Weights(weight_files(base))
    if adapter is not None:
        weights = adapters.Merged(weights, adapter)
    target = out / _GGUF
    encoding = quantization.encoding(format_, config)
    llama.write_gguf(base, weights, config, target, name=base.name, licence="", encoding=encoding)
    return dict(Counter(info.type.name for info in GgufFile(target).tensors.values()))


def gauge(gguf: Path, adapter: Path | None) -> dict[str, Any]:
    """Sizes of the files, and what the engine says of them in a process of its own."""
    files = [gguf, *([adapter] if adapter is not None else [])]
    command = [sys.executable, "-m", "mainspring_modelfiles.gauge", *map(str, files)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"the engine cannot run {gguf.name}: {last[0][:300]}")
    return {"file_bytes": sum(path.stat().st_size for path in files), **json.loads(done.stdout)}


def main() -> int:
    """The command; see the module's text."""
    return answer(_made)


def _made(request: dict[str, Any]) -> dict[str, Any]:
    out, before = Path(request["out"]), request["before"]
    types = run(quantization.Format(request["format"]), Path(request["base"]), _path(request["adapter"]), out)
    return {
        "files": {"gguf": _GGUF},
        "types": types,
        "before": gauge(Path(before["gguf"]), _path(before["adapter"])),
        "after": gauge(out / _GGUF, None),
    }


def _path(text: str) -> Path | None:
    return Path(text) if text else None


if __name__ == "__main__":
    sys.exit(main())
