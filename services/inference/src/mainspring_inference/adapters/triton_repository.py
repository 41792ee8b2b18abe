"""Writes the folder of a model in Triton's repository.

For llama.cpp that is `config.pbtxt` and a `model.py` of one import: what it imports lives in the engine's environment,
what it must know stands in the configuration, as JSON. What vLLM's backend wants is in `vllm_repository`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mainspring_svckit.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,250}")
_PARAMETER = re.compile(r'^parameters \{ key: "mainspring", value: \{ string_value: ("[^\n]*") \} \}$', re.MULTILINE)
_PLACES = ("gguf", "adapter", "folder", "adapter_folder")
_MODEL_PY = "from mainspring_engine.triton_model import TritonPythonModel as TritonPythonModel\n"
# Name, type, dims, optional.
Input = tuple[str, str, str, bool]
Output = tuple[str, str, str]
ANSWER_INPUTS: tuple[Input, ...] = (
    ("text_input", "TYPE_STRING", "[ 1 ]", False),
    ("stream", "TYPE_BOOL", "[ 1 ]", True),
    ("sampling_parameters", "TYPE_STRING", "[ 1 ]", True),
    ("exclude_input_in_output", "TYPE_BOOL", "[ 1 ]", True),
    ("return_finish_reason", "TYPE_BOOL", "[ 1 ]", True),
    ("return_num_input_tokens", "TYPE_BOOL", "[ 1 ]", True),
    ("return_num_output_tokens", "TYPE_BOOL", "[ 1 ]", True),
    ("return_logprobs", "TYPE_BOOL", "[ 1 ]", True),
)
"""The tensors of Triton's vLLM backend that an answer needs, which our own engine has too."""
ANSWER_OUTPUTS: tuple[Output, ...] = (
    ("text_output", "TYPE_STRING", "[ -1 ]"),
    ("finish_reason", "TYPE_STRING", "[ -1 ]"),
    ("num_input_tokens", "TYPE_UINT32", "[ -1 ]"),
    ("num_output_tokens", "TYPE_UINT32", "[ -1 ]"),
    ("logprobs", "TYPE_STRING", "[ -1 ]"),
)
_SCORING: Input = ("continuation", "TYPE_STRING", "[ 1 ]", True)
_EMBED_INPUTS: tuple[Input, ...] = (("text_input", "TYPE_STRING", "[ -1 ]", False),)
_EMBED_OUTPUTS: tuple[Output, ...] = (
    ("embedding", "TYPE_FP32", "[ -1, -1 ]"),
    ("num_input_tokens", "TYPE_UINT32", "[ 1 ]"),
)


class Model(Protocol):
    """What Triton can hold."""

    def texts(self, name: str) -> Mapping[str, str]:
        """The texts of the model's folder by their paths in it; the same model gives the same."""
        ...


class ModelUse(StrEnum):
    """What a model is for."""

    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True)
class TritonModel:
    """What Triton must know of a model.

    Attributes:
        kind: What it is for.
        gguf: File of the foundation or embedding model, on Triton's machine.
        context_tokens: Longest prompt and answer together; llama.cpp rounds it up to a multiple of 256.
        adapter: File of a LoRA on it, or None.
        slots: How many requests are computed together.
        threads: Threads that compute.
    """

    kind: ModelUse
    gguf: Path
    context_tokens: int
    adapter: Path | None = None
    slots: int = 8
    threads: int = 2

    def texts(self, name: str) -> Mapping[str, str]:
        """As `Model.texts`."""
        values = {
            "adapter": str(self.adapter or ""),
            "context_tokens": self.context_tokens,
            "gguf": str(self.gguf),
            "kind": self.kind.value,
            "slots": self.slots,
            "threads": self.threads,
        }
        generates = self.kind is ModelUse.GENERATE
        inputs = (*ANSWER_INPUTS, _SCORING) if generates else _EMBED_INPUTS
        outputs = ANSWER_OUTPUTS if generates else _EMBED_OUTPUTS
        return {"1/model.py": _MODEL_PY, "config.pbtxt": config(name, "python", "KIND_CPU", inputs, outputs, values)}


def write(repository: Path, name: str, model: Model) -> Path:
    """Writes a model's folder and returns it; the same model gives the same bytes, and repeats change only times.

    Loading after this starts the model anew. Loading alone does not: Triton 2.51 takes a model whose process died for
    loaded, and then does nothing unless the code in its folder looks changed.

    Args:
        repository: Triton's model repository.
        name: The model's name in Triton, which is its folder's.
        model: What to serve.

    Raises:
        InvalidInput: TRITON_NAME_INVALID, the name is no folder's name.
        PreconditionFailed: The engine cannot serve the model; nothing was written.
    """
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot name a model in Triton; use letters, digits, '.', '_' and '-'"
        raise InvalidInput(message, reason="TRITON_NAME_INVALID", metadata={"name": name})
    folder, texts = repository / name, model.texts(name)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    # What another engine was told, this one would read.
    for path in (folder / "1").iterdir():
        if path.is_file() and f"1/{path.name}" not in texts:
            path.unlink(missing_ok=True)
    # The configuration comes last, since a folder without it is no model.
    for place, text in sorted(texts.items()):
        _replace(folder / place, text)
        if place != "config.pbtxt":
            os.utime(folder / place)
    return folder


def config(
    name: str,
    backend: str,
    instances: str,
    inputs: Sequence[Input],
    outputs: Sequence[Output],
    described: Mapping[str, object],
) -> str:
    """The text of config.pbtxt; complete, for Triton is told not to complete it.

    Args:
        name: The model's name in Triton.
        backend: Triton's name of what runs it.
        instances: Kind of its one instance.
        inputs: Tensors of a request.
        outputs: Tensors of a response.
        described: What is kept as the parameter `mainspring`: for our engine, and for whoever cleans up files.
    """
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(backend)}", "max_batch_size: 0"]
    lines += ["model_transaction_policy { decoupled: true }", f"instance_group [ {{ count: 1, kind: {instances} }} ]"]
    for tensor, kind, dims, optional in inputs:
        extra = ", optional: true" if optional else ""
        lines.append(f"input [ {{ name: {_quoted(tensor)}, data_type: {kind}, dims: {dims}{extra} }} ]")
    lines += [f"output [ {{ name: {_quoted(t)}, data_type: {kind}, dims: {dims} }} ]" for t, kind, dims in outputs]
    told = json.dumps(described, sort_keys=True)
    lines.append(f'parameters {{ key: "mainspring", value: {{ string_value: {_quoted(told)} }} }}')
    return "\n".join([*lines, ""])


def referenced(repository: Path) -> set[Path]:
    """Files and folders of files that the models of a repository need."""
    needed: set[Path] = set()
    for path in repository.glob("*/config.pbtxt"):
        found = _PARAMETER.search(path.read_text(encoding="utf-8"))
        values = json.loads(json.loads(found[1])) if found is not None else {}
        needed |= {Path(values[key]) for key in _PLACES if values.get(key)}
    return needed


def _quoted(text: str) -> str:
    """A string of protobuf's text format; the texts here are ASCII, for which JSON writes the same."""
    return json.dumps(text)


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
