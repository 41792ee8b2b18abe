"""Imports one model: reads a request from stdin, writes files, and prints what it made.

    python -m mainspring_modelfiles.importer < request.json

Request: `{"kind": "FOUNDATION" | "EMBEDDING", "package": "", "path": "", "hub": "", "context_tokens": 0, "out": "/f"}`.
Exactly one of `package`, `path` and `hub` is set; `context_tokens` 0 stands for the model's own limit, at most 2,048.

Exit status 0 prints `{"files": {role: path below out}, "serving": {...}, "licence": "", "origin": ""}`; status 2 prints
`{"reason": "", "message": ""}` and means that the model may not come in. Any other status is a failure, told on stderr.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mainspring_modelfiles import bert, gguf_models, gguf_to_hf, llama, tokens
from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_modelfiles.hub import fetch
from mainspring_modelfiles.program import answer
from mainspring_modelfiles.refusal import Refused
from mainspring_modelfiles.safetensors_file import Weights, weight_files
from mainspring_modelfiles.sources import Source, file_in, open_source, read_json, refuse_custom_code, spdx

CONTEXT_TOKENS_DEFAULT = 2048
_GGUF = "model.gguf"
_HF_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_EMBEDDING_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True)
class Serving:
    """How to serve what was imported."""

    context_tokens: int
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    dimensions: int = 0


@dataclass(frozen=True)
class Imported:
    """What was made: files below the output folder by role, and what is known about them."""

    files: Mapping[str, str]
    serving: Serving
    licence: str
    origin: str


def run(kind: str, package: str, path: str, context_tokens: int, out: Path, *, hub: str = "") -> Imported:
    """Imports a model into the folder `out`.

    Raises:
        Refused: The source is not a model that may come in.
    """
    if hub:
        with tempfile.TemporaryDirectory(prefix="mainspring-hub-", dir=out.parent) as scratch:
            folder, origin = fetch(hub, Path(scratch))
            source = replace(open_source("", str(folder)), origin=origin)
            return _imported(kind, source, context_tokens, out)
    return _imported(kind, open_source(package, path), context_tokens, out)


def _imported(kind: str, source: Source, context_tokens: int, out: Path) -> Imported:
    if kind == "EMBEDDING":
        return _embedding(source, context_tokens, out)
    if kind != "FOUNDATION":
        raise Refused("KIND_UNSUPPORTED", f"models of the kind {kind} cannot be imported; FOUNDATION and EMBEDDING can")
    if source.gguf is not None:
        return _foundation_gguf(source, source.gguf, context_tokens, out)
    return _foundation_folder(source, context_tokens, out)


def _foundation_gguf(source: Source, path: Path, context_tokens: int, out: Path) -> Imported:
    model = GgufFile(path)
    gguf_models.check(model)
    serving = Serving(
        context_tokens=_context(context_tokens, gguf_models.context_tokens(model)),
        chat_template=model.get("tokenizer.chat_template", ""),
        bos_token=gguf_models.special_tokens(model).bos,
        eos_token=gguf_models.special_tokens(model).eos,
    )
    # What needs other packages comes first, so that their absence is told before minutes of work.
    gguf_to_hf.write_folder(path, model.get("tokenizer.ggml.pre", ""), out / "hf")
    gguf_models.write_for_serving(model, out / _GGUF)
    names = [*_HF_FILES, *(p.name for p in weight_files(out / "hf"))]
    files = {f"hf/{name}": f"hf/{name}" for name in names if (out / "hf" / name).exists()}
    licence = spdx(model.get("general.license", "")) or source.licence
    return Imported({"gguf": _GGUF, **files}, serving, licence, source.origin)


def _foundation_folder(source: Source, context_tokens: int, out: Path) -> Imported:
    folder = source.folder
    refuse_custom_code(folder)
    config = llama.parse_config(_config(folder))
    paths = weight_files(folder)
    special = tokens.special_tokens(folder)
    serving = Serving(
        context_tokens=_context(context_tokens, config.context_tokens),
        chat_template=tokens.chat_template(folder),
        bos_token=special.bos,
        eos_token=special.eos,
    )
    llama.write_gguf(folder, Weights(paths), config, out / _GGUF, name=folder.name, licence=source.licence)
    index = ["model.safetensors.index.json"] if len(paths) > 1 else []
    files = _copied(folder, [*_HF_FILES, *index, *(p.name for p in paths)], out, "hf")
    return Imported({"gguf": _GGUF, **files}, serving, source.licence, source.origin)


def _embedding(source: Source, context_tokens: int, out: Path) -> Imported:
    if source.gguf is not None:
        raise Refused(
            "SOURCE_UNKNOWN", "embedding models come as Hugging Face folders; name the folder with config.json"
        )
    folder = source.folder
    refuse_custom_code(folder)
    config = bert.parse_config(folder, _config(folder))
    serving = Serving(context_tokens=_context(context_tokens, config.context_tokens), dimensions=config.hidden)
    paths = weight_files(folder)
    bert.write_gguf(folder, Weights(paths), config, out / _GGUF, name=folder.name, licence=source.licence)
    index = ["model.safetensors.index.json"] if len(paths) > 1 else []
    files = _copied(folder, [*_EMBEDDING_FILES, *index, *(p.name for p in paths)], out, "hf")
    return Imported({"gguf": _GGUF, **files}, serving, source.licence, source.origin)


def _config(folder: Path) -> Mapping[str, Any]:
    config = read_json(folder, "config.json")
    if config is None:
        raise Refused("SOURCE_UNKNOWN", f"{folder.name} has no config.json; name a Hugging Face folder")
    return config


def _context(wanted: int, limit: int) -> int:
    if wanted > limit:
        message = f"the model takes at most {limit} tokens, {wanted} were wished for; choose at most {limit}"
        raise Refused("CONTEXT_TOO_LONG", message)
    return wanted or min(limit, CONTEXT_TOKENS_DEFAULT)


def _copied(folder: Path, names: list[str] | tuple[str, ...], out: Path, role: str) -> dict[str, str]:
    (out / role).mkdir(exist_ok=True)
    files: dict[str, str] = {}
    for name in names:
        path = file_in(folder, name)
        if path is not None:
            shutil.copyfile(path, out / role / name)
            files[f"{role}/{name}"] = f"{role}/{name}"
    return files


def main() -> int:
    """The command; see the module's text."""
    return answer(
        lambda request: asdict(
            run(
                request["kind"],
                request.get("package", ""),
                request.get("path", ""),
                int(request.get("context_tokens", 0)),
                Path(request["out"]),
                hub=request.get("hub", ""),
            )
        )
    )


if __name__ == "__main__":
    sys.exit(main())
