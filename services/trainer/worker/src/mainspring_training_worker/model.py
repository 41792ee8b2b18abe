"""The model in memory: which precision, which adapter, what loss."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from mainspring_training_worker.batches import Example
from mainspring_training_worker.layers import Adapted
from mainspring_training_worker.spec import Lora, Refused

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WORTH_IT = 1.3
"""How much faster bf16 must be to be chosen; where the processor lacks it, it is several times slower."""


def choose_precision(wanted: str) -> str:
    """`wanted`, or for `auto` what multiplies matrices faster on this machine."""
    return wanted if wanted != "auto" else _faster(_matmul_s(torch.float32), _matmul_s(torch.bfloat16))


def _faster(fp32_s: float, bf16_s: float) -> str:
    return "bf16" if fp32_s > bf16_s * _WORTH_IT else "fp32"


def _matmul_s(dtype: torch.dtype) -> float:
    left, right = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    times: list[float] = []
    for _ in range(8):
        began = time.perf_counter()
        torch.matmul(left, right)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def load_tokenizer(folder: Path) -> Any:
    """The base model's tokenizer; what it lacks for padding is its end token.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, it has no chat template or no end token.
    """
    tokenizer: Any = _loaded(lambda: AutoTokenizer.from_pretrained(folder))
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise Refused("BASE_MODEL_UNUSABLE", "the base model's tokenizer has no chat template or no end token; add it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(folder: Path, precision: str, attention: str = "sdpa") -> Any:
    """The base model. Only safetensors are read and no code that comes with a model is run.

    Args:
        folder: Hugging Face folder.
        precision: `fp32` or `bf16`.
        attention: What computes attention, by transformers' name for it.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, transformers cannot read it.
    """
    return _loaded(
        lambda: AutoModelForCausalLM.from_pretrained(
            folder, dtype=_DTYPES[precision], use_safetensors=True, attn_implementation=attention
        )
    )


def _loaded(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError) as err:
        message = f"the base model cannot be read: {err}; import it again"
        raise Refused("BASE_MODEL_UNUSABLE", message[:500]) from err


class Tunable:
    """A base model with a trainable adapter, in the precision of the base; the adapter itself is kept in fp32."""

    def __init__(self, base: Any, lora: Lora, parent: Path | None, seed: int) -> None:
        """Puts the adapter on: fresh by `seed`, or with the weights of `parent`, a PEFT folder."""
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT says int and divides it.
            lora_dropout=lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        # The leading underscore is PEFT's: it documents this method for custom layers.
        config._register_custom_module({torch.nn.Linear: Adapted})  # pyright: ignore[reportPrivateUsage] - see above.
        self.module: Any = get_peft_model(base, config)
        core = self.module.get_base_model()
        self._core, self._backbone, self._head = core, core.base_model, core.get_output_embeddings()
        self.parameters: dict[str, Tensor] = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        if parent is not None:
            self.load(load_file(parent / "adapter_model.safetensors"))
        self._head_alone = self._head_is_all()

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's weights by PEFT's names; the model's own tensors, so clone what must not change."""
        return {name: tensor.detach() for name, tensor in get_peft_model_state_dict(self.module).items()}

    def load(self, adapter: dict[str, Tensor]) -> None:
        """Sets the adapter's weights.

        Raises:
            Refused: PARENT_UNUSABLE, they are not those of an adapter of this shape on this base.
        """
        mine = {name: tensor.shape for name, tensor in self.adapter().items()}
        if mine != {name: tensor.shape for name, tensor in adapter.items()}:
            message = "the adapter to begin with has other layers or another rank than this run; start from the base"
            raise Refused("PARENT_UNUSABLE", message)
        set_peft_model_state_dict(self.module, adapter)

    def loss_sum(self, examples: Sequence[Example], padding: int) -> Tensor:
        """Summed negative log-likelihood, in nats, of the examples' answers.

        Rows are padded on the right, where a causal model's real positions never look, so no mask is needed. The output
        layer, by far the widest, is applied at the answers' positions only.
        """
        width = max(len(example.tokens) for example in examples)
        tokens = torch.full((len(examples), width), padding)
        wanted = torch.zeros((len(examples), width - 1), dtype=torch.bool)
        for row, example in enumerate(examples):
            tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
            wanted[row, example.answer_start - 1 : len(example.tokens) - 1] = True
        if self._head_alone:
            hidden = self._backbone(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
            logits = self._head(hidden[wanted])
        else:
            logits = self._core(input_ids=tokens[:, :-1], use_cache=False).logits[wanted]
        return cross_entropy(logits.float(), tokens[:, 1:][wanted], reduction="sum")

    def _head_is_all(self) -> bool:
        """Whether the output layer alone turns hidden states into logits; some families scale or cap them after it."""
        probe = torch.arange(4).unsqueeze(0)
        self.module.eval()
        with torch.no_grad():
            direct = self._head(self._backbone(input_ids=probe, use_cache=False).last_hidden_state)
            return torch.equal(direct, self._core(input_ids=probe, use_cache=False).logits)


def write_adapter(folder: Path, adapter: dict[str, Tensor], config: LoraConfig, base_name: str) -> None:
    """Writes a PEFT folder; the same weights give the same bytes.

    Args:
        folder: Made when it is missing.
        adapter: Weights by PEFT's names.
        config: The adapter's configuration.
        base_name: Resource name of the base, in place of a path that only this machine knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {**config.to_dict(), "base_model_name_or_path": base_name, "inference_mode": True}
    text = json.dumps(described, indent=2, sort_keys=True, default=_plain)
    (folder / "adapter_config.json").write_text(text + "\n")
    (folder / "adapter_model.safetensors").write_bytes(save(adapter, metadata={"format": "pt"}))


def _plain(value: object) -> object:
    # Sets print in another order in each process.
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


def read_adapted(base: Any, folder: Path) -> Any:
    """A base model with an adapter, as somebody who takes the files would load it."""
    model: Any = PeftModel.from_pretrained(base, str(folder))
    return model.eval()
