"""What encoding a model lost: two models in memory, one after the other, tell the same texts.

Divergence is over the whole vocabulary, after prefixes of the fidelity probe's text; loss is the mean negative
log-likelihood of a text's tokens, in nats. Both are computed by transformers, which decompresses encoded weights: what
it says of closeness holds for every engine that reads them as they are meant, of speed it says nothing. Needs torch and
transformers, which are imported when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring_modelfiles import llama, probe

_TOKENS_MAX = 1024


@dataclass(frozen=True)
class Sample:
    """A text whose tokens are told, after a conversation of `role` and `content` where there is one."""

    messages: tuple[Mapping[str, str], ...]
    text: str


OWN_SAMPLES = (Sample((), probe.TEXT),)
"""What is told when nobody names a sample."""


@dataclass(frozen=True)
class Told:
    """What one model says.

    Attributes:
        log_probabilities: Of every token of the vocabulary, a row for each prefix; a tensor.
        loss: Mean over all tokens of the samples' texts, in nats.
        tokens: How many those are.
    """

    log_probabilities: Any
    loss: float
    tokens: int


@dataclass(frozen=True)
class Lost:
    """How far the second is from the first; see `mainspring.common.v1.Fidelity`."""

    mean_kl_nats: float
    top1_agreement: float
    positions: int
    loss_before: float
    loss_after: float
    tokens: int


def load(
    folder: Path, *, weights: llama.TensorSource | None = None, dtype: str = "float32", device: str = "cpu"
) -> Any:
    """A causal model, ready to tell.

    Args:
        folder: Hugging Face folder; encoded weights are decompressed.
        weights: What the folder's weights are replaced by, for example an adapter merged in.
        dtype: In which it computes.
        device: Where.
    """
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    causal: Any = transformers.AutoModelForCausalLM
    model: Any = causal.from_pretrained(folder, dtype=getattr(torch, dtype))
    if weights is not None:
        known = dict(model.named_parameters())
        with torch.no_grad():
            for name in weights.names:
                if name in known:
                    known[name].copy_(torch.from_numpy(weights.read(name)))
    return model.to(device).eval()


def tell(model: Any, folder: Path, samples: Sequence[Sample] = OWN_SAMPLES) -> Told:
    """What a model says of the probe's text and of samples.

    Args:
        model: From `load`.
        folder: Hugging Face folder with its tokenizer.
        samples: Texts; of one that is longer than 1,024 tokens with its prompt, the prompt's end and the text's begin.
            Where none can be told anything of, our own stand in for them.
    """
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    ids: list[int] = tokenizer(probe.TEXT)["input_ids"]
    last = [len(tokenizer(prefix)["input_ids"]) - 1 for prefix in probe.prefixes(48)]
    with torch.no_grad():
        rows = torch.log_softmax(_logits(torch, model, ids)[last].float(), dim=-1).cpu()
        total, tokens = _total(torch, model, tokenizer, samples)
        if not tokens:
            total, tokens = _total(torch, model, tokenizer, OWN_SAMPLES)
    return Told(rows, total / tokens, tokens)


def _total(torch: Any, model: Any, tokenizer: Any, samples: Sequence[Sample]) -> tuple[float, int]:
    """The loss of all tokens of the samples' texts together, and how many those are."""
    refused: Any = importlib.import_module("jinja2").TemplateError
    total, tokens = 0.0, 0
    for sample in samples:
        try:
            prompt: list[int] = _prompt(tokenizer, sample)
        except refused:
            continue  # A conversation that the template refuses is one that the model is never asked.
        told: list[int] = tokenizer(sample.text, add_special_tokens=not prompt)["input_ids"][: _TOKENS_MAX // 2]
        prompt = prompt[max(0, len(prompt) + len(told) - _TOKENS_MAX) :]
        whole, start = [*prompt, *told], max(len(prompt), 1)
        if len(whole) <= start:
            continue
        logits = _logits(torch, model, whole)[start - 1 : -1].float()
        targets = torch.tensor(whole[start:], device=logits.device)
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        tokens += len(whole) - start
    return total, tokens


def lost(before: Told, after: Told) -> Lost:
    """How far the second model is from the first."""
    first, second = before.log_probabilities, after.log_probabilities
    divergence = (first.exp() * (first - second)).sum(-1)
    agreed = (first.argmax(-1) == second.argmax(-1)).float()
    return Lost(
        mean_kl_nats=float(divergence.mean()),
        top1_agreement=float(agreed.mean()),
        positions=len(first),
        loss_before=before.loss,
        loss_after=after.loss,
        tokens=after.tokens,
    )


def _prompt(tokenizer: Any, sample: Sample) -> list[int]:
    """The tokens of the conversation before the text, as the model's template renders it."""
    if not sample.messages:
        return []
    if not tokenizer.chat_template:
        return tokenizer("\n".join(message["content"] for message in sample.messages))["input_ids"]
    text = tokenizer.apply_chat_template(list(sample.messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _logits(torch: Any, model: Any, ids: list[int]) -> Any:
    given = torch.tensor([ids], device=next(model.parameters()).device)
    return model(input_ids=given, use_cache=False).logits[0]
