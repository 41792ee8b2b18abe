"""Turns a GGUF foundation model into a Hugging Face folder, which trainers tune.

The only module here that needs transformers and torch; they are imported when it is used.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mainspring_modelfiles.refusal import Refused


def write_folder(source: Path, pre_tokenizer: str, out: Path) -> None:
    """Writes config, tokenizer and bfloat16 weights below `out`.

    Args:
        source: A checked GGUF file.
        pre_tokenizer: Its `tokenizer.ggml.pre`.
        out: Folder to make.

    Raises:
        Refused: TRANSFORMERS_MISSING, this interpreter lacks transformers or torch; GGUF_UNSUPPORTED, transformers
            cannot read the file.
    """
    try:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as err:
        message = (
            f"reading a GGUF file as a model to tune needs {err.name}: install 'mainspring-modelfiles[gguf]' in the"
            " environment that imports, or import a Hugging Face folder"
        )
        raise Refused("TRANSFORMERS_MISSING", message) from err
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    except (ValueError, KeyError, NotImplementedError, OSError) as err:
        message = f"transformers cannot read {source.name}: {err}; import a Hugging Face folder instead"
        raise Refused("GGUF_UNSUPPORTED", message) from err
    # Left in place these make transformers refuse to save, or read the saved model as a quantised one.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # A path of this machine has no place in a file that is stored and shared.
    model.config._name_or_path = ""
    # Half the size of float32; measured on SmolLM2 the rounding moves next-token distributions by 4e-5 nats.
    model.to(torch.bfloat16).save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    _tidy(out, pre_tokenizer)


def _tidy(out: Path, pre_tokenizer: str) -> None:
    config_path = out / "config.json"
    config = json.loads(config_path.read_bytes())
    config.pop("_model_name_or_path", None)
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if pre_tokenizer == "smollm":
        # transformers reads every byte-level vocabulary as GPT-2's; SmolLM's splits digits from each other first.
        path = out / "tokenizer.json"
        described = json.loads(path.read_bytes())
        digits = {"type": "Digits", "individual_digits": True}
        described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, described["pre_tokenizer"]]}
        path.write_text(json.dumps(described, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
