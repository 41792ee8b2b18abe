"""Compresses one model: reads a request from stdin, writes its files, and prints what it made.

    python -m mainspring_modelfiles.quantizer < request.json

Request: `{"format": "Q8_0" | "Q6_K" | "Q4_K_M" | "INT8" | "INT4", "base": "/hf folder", "adapter": "" | "/PEFT folder",
"out": "/folder", "before": {"gguf": "/file", "adapter": "" | "/file"}, "samples": [{"messages": [{"role": "",
"content": ""}, ...], "text": ""}, ...]}`.
The adapter is merged into the base in float32; then the whole is encoded.

The first three formats make one GGUF file; `before` is what serves now, and both are measured by the engine, one after
the other. INT8 and INT4 make a Hugging Face folder for engines on GPUs (`packed`), of which nothing but the size can be
measured here, and say what was lost on `samples` (a text of our own when there are none).

Exit status 0 prints `{"files": {role: path below out}, "types": {type: tensors}, "before": measured, "after": measured,
"lost": {} | fields of `losses.Lost`}`, where measured is the file sizes and what `gauge` says; status 2 prints
`{"reason": "", "message": ""}` and means that the model cannot be compressed. Any other status is a failure, told on
stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mainspring_modelfiles import adapters, llama, losses, packed, quantization
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
    return {"file_bytes": _bytes(files), **json.loads(done.stdout)}


def pack(
    precision: packed.Precision, base: Path, adapter: Path | None, samples: Sequence[losses.Sample], out: Path
) -> dict[str, Any]:
    """Writes `hf/` into the folder `out` and compares; returns the program's answer.

    Raises:
        Refused: The files are none that can be encoded.
    """
    plain = Weights(weight_files(base))
    merged = adapters.Merged(plain, adapter) if adapter is not None else None
    folder = out / "hf"
    types = packed.write_folder(base, merged or plain, precision, folder)
    # What was written is read as what anybody else brings: an engine must find a whole file.
    after = weight_files(folder)
    Weights(after)
    told = losses.tell(losses.load(base, weights=merged), base, samples)
    lost = losses.lost(told, losses.tell(losses.load(folder), folder, samples))
    before = [*weight_files(base), *(adapter.glob("*.safetensors") if adapter is not None else ())]
    return {
        "files": {f"hf/{path.name}": f"hf/{path.name}" for path in sorted(folder.iterdir())},
        "types": types,
        "before": {"file_bytes": _bytes(before)},
        "after": {"file_bytes": _bytes(after)},
        "lost": asdict(lost),
    }


def main() -> int:
    """The command; see the module's text."""
    # Nothing is ever fetched from outside, and progress is nobody's to see.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    return answer(_made)


def _made(request: dict[str, Any]) -> dict[str, Any]:
    out, base, adapter = Path(request["out"]), Path(request["base"]), _path(request["adapter"])
    if request["format"] in set(packed.Precision):
        samples = [losses.Sample(tuple(sample["messages"]), sample["text"]) for sample in request["samples"]]
        return pack(packed.Precision(request["format"]), base, adapter, samples or losses.OWN_SAMPLES, out)
    before = request["before"]
    types = run(quantization.Format(request["format"]), base, adapter, out)
    return {
        "files": {"gguf": _GGUF},
        "types": types,
        "before": gauge(Path(before["gguf"]), _path(before["adapter"])),
        "after": gauge(out / _GGUF, None),
        "lost": {},
    }


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


if __name__ == "__main__":
    sys.exit(main())
