"""The model in memory: which precision, what of it is changed, what loss."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from mainspring_training_worker.batches import Example
from mainspring_training_worker.device import CPU, moved, on_gpu
from mainspring_training_worker.layers import Adapted
from mainspring_training_worker.spec import Lora, Refused

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WORTH_IT = 1.3
"""How much faster bf16 must be to be chosen; where the processor lacks it, it is several times slower."""


def choose_precision(wanted: str, device: torch.device = CPU) -> str:
    """`wanted`, or for `auto` what multiplies matrices faster on this device; on a GPU, bf16 when it has it."""
    if wanted == "auto" and on_gpu(device):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return wanted if wanted != "auto" else _faster(_matmul_s(torch.float32, device), _matmul_s(torch.bfloat16, device))


def _faster(fp32_s: float, bf16_s: float) -> str:
    return "bf16" if fp32_s > bf16_s * _WORTH_IT else "fp32"


def operations_per_s(precision: str, device: torch.device = CPU) -> float:
    """Operations a second of a plain matrix product there."""
    rows, width = _product(device)
    return 2 * rows * width * width / _matmul_s(_DTYPES[precision], device)


def _product(device: torch.device) -> tuple[int, int]:
    """Rows and width of a trial product, large enough to keep the device busy."""
    return (4096, 4096) if on_gpu(device) else (256, 1024)


def _matmul_s(dtype: torch.dtype, device: torch.device) -> float:
    rows, width = _product(device)
    left, right = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    left, right = left.to(device), right.to(device)
    times: list[float] = []
    for _ in range(8):
        began = time.perf_counter()
        torch.matmul(left, right)
        if on_gpu(device):
            torch.cuda.synchronize(device)
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


def load_base(
    folder: Path,
    precision: str,
    attention: str = "sdpa",
    *,
    four_bits: bool = False,
    scores: bool = False,
    device: torch.device = CPU,
) -> Any:
    """The base model. Only safetensors are read and no code that comes with a model is run.

    Args:
        folder: Hugging Face folder.
        precision: `fp32` or `bf16`.
        attention: What computes attention, by transformers' name for it.
        four_bits: Whether its matrices are held in 4 bits (Dettmers et al. 2023, arXiv:2305.14314).
        scores: Whether it gives a text one number instead of its next tokens.
        device: Where it computes.

    Raises:
        Refused: BASE_MODEL_UNUSABLE, transformers cannot read it; QUANTIZATION_UNAVAILABLE.
    """
    given: dict[str, Any] = {
        "dtype": _DTYPES[precision],
        "use_safetensors": True,
        "attn_implementation": attention,
        **(_four_bits(_DTYPES[precision], device) if four_bits else {}),
    }
    if scores:
        scoring = _loaded(lambda: AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **given))
        return scoring if four_bits else scoring.to(device)
    model = _loaded(lambda: AutoModelForCausalLM.from_pretrained(folder, **given))
    for module in model.modules() if four_bits else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Its first use outside training would repack the weights for good, and a resumed run would then differ.
            module.support_avx512bf16_for_cpu = False
    return model if four_bits else model.to(device)


def _four_bits(compute: torch.dtype, device: torch.device) -> dict[str, Any]:
    try:
        importlib.import_module("bitsandbytes")  # transformers uses it.
    except (ImportError, OSError, RuntimeError) as err:
        message = f"a base in 4 bits needs bitsandbytes, which does not run here ({err}); use ADAPTATION_LORA"
        raise Refused("QUANTIZATION_UNAVAILABLE", message[:500]) from err
    config: Any = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _loaded(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError) as err:
        message = f"the base model cannot be read: {err}; import it again"
        raise Refused("BASE_MODEL_UNUSABLE", message[:500]) from err


class Tunable:
    """A model and what of it is learned; that is kept in fp32, the rest in the precision of the base."""

    def __init__(self, base: Any, *, packed: bool = False, half: bool = False) -> None:
        """Takes the whole model to be learned.

        Args:
            base: A causal model.
            packed: Whether examples stand one after the other in one row, each seeing only itself.
            half: Whether fp32 weights compute in bf16.
        """
        self.module: Any = base
        self.device: torch.device = next(base.parameters()).device
        self._packed, self._half = packed, half
        core: Any = base.get_base_model() if isinstance(base, PeftModel) else base
        self._core, self._backbone, self._head = core, core.base_model, core.get_output_embeddings()
        self.parameters: dict[str, Tensor] = {n: p for n, p in base.named_parameters() if p.requires_grad}
        self._head_alone = self._head is not None and self._head_is_all()

    @classmethod
    def adapted(
        cls,
        base: Any,
        lora: Lora,
        parent: Path | None,
        seed: int,
        *,
        packed: bool = False,
        half: bool = False,
        task: str = "CAUSAL_LM",
        quick: bool = True,
    ) -> Tunable:
        """A base with an adapter: fresh by `seed`, or with the weights of `parent`, a PEFT folder.

        Args:
            base: The base model.
            lora: Shape of the adapter.
            parent: The adapter to begin with, or None.
            seed: Of fresh weights.
            packed: As for `Tunable`.
            half: As for `Tunable`.
            task: PEFT's name for what the model does.
            quick: Whether layers may be those of `layers.py`; not for a base in 4 bits, nor for a GPU.
        """
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT says int and divides it.
            lora_dropout=lora.dropout,
            use_rslora=lora.rank_stabilized,
            use_dora=lora.weight_decomposed,
            target_modules="all-linear",
            task_type=task,
        )
        if quick and not lora.weight_decomposed:
            # The leading underscore is PEFT's: it documents this method for custom layers.
            config._register_custom_module({torch.nn.Linear: Adapted})  # pyright: ignore[reportPrivateUsage] - see above.
        made = cls(_in_fp32(get_peft_model(base, config)), packed=packed, half=half)
        if parent is not None:
            made.load(load_file(parent / "adapter_model.safetensors"))
        return made

    @property
    def half(self) -> bool:
        """Whether fp32 weights compute in bf16."""
        return self._half

    @property
    def predicts(self) -> bool:
        """Whether it gives next tokens; a model that gives scores does not."""
        return self._head is not None

    @property
    def adapter_config(self) -> LoraConfig | None:
        """The adapter's configuration; None when the whole model is learned."""
        configs: dict[str, Any] = getattr(self.module, "peft_config", {})
        return configs.get("default")

    def weights(self) -> dict[str, Tensor]:
        """What is learned, by PEFT's or the model's names; the model's own tensors, so clone what must not change."""
        if not isinstance(self.module, PeftModel):
            return {name: tensor.detach() for name, tensor in self.parameters.items()}
        return {name: tensor.detach() for name, tensor in get_peft_model_state_dict(self.module).items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Sets what is learned.

        Raises:
            Refused: PARENT_UNUSABLE, the weights are not those of an adapter of this shape on this base.
        """
        mine = {name: tensor.shape for name, tensor in self.weights().items()}
        if mine != {name: tensor.shape for name, tensor in weights.items()}:
            message = "the adapter to begin with has other layers or another rank than this run; start from the base"
            raise Refused("PARENT_UNUSABLE", message)
        if isinstance(self.module, PeftModel):
            set_peft_model_state_dict(self.module, weights)
        else:
            self.module.load_state_dict(weights, strict=False)  # Tied weights stand there once.

    def loss_sum(self, examples: Sequence[Example], padding: int) -> Tensor:
        """Summed negative log-likelihood, in nats, of the tokens to learn."""
        logits, targets = self.predictions(examples, padding)
        return cross_entropy(logits, targets, reduction="sum")

    def predictions(self, examples: Sequence[Example], padding: int) -> tuple[Tensor, Tensor]:
        """The words' scores in fp32 where a token is to be learned, and those tokens, one example after the other.

        The output layer, by far the widest, is applied at their positions only.
        """
        tokens, wanted, position = self._rows(examples, padding)
        tokens, wanted = moved(tokens, self.device), moved(wanted, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            given = {"input_ids": tokens[:, :-1], "use_cache": False}
            if position is not None:
                given["position_ids"] = moved(position[:, :-1], self.device)
            if self._head_alone:
                hidden = self._backbone(**given).last_hidden_state
                logits = self._head(hidden[wanted])
            else:
                logits = self._core(**given).logits[wanted]
        return logits.float(), tokens[:, 1:][wanted]

    def _rows(self, examples: Sequence[Example], padding: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens, which of them but the first of a row are to be learned, and positions when examples share a row.

        Rows are padded on the right, where a causal model's real positions never look, so no mask is needed. Packed
        examples are told apart by their positions, from which transformers makes a mask of blocks.
        """
        if self._packed and len(examples) > 1:
            tokens = torch.tensor([[token for example in examples for token in example.tokens]])
            position = torch.cat([torch.arange(len(example.tokens)) for example in examples]).unsqueeze(0)
            starts = torch.tensor([example.answer_start for example in examples for _ in example.tokens])
            return tokens, (position >= starts)[:, 1:], position
        width = max(len(example.tokens) for example in examples)
        tokens = torch.full((len(examples), width), padding)
        wanted = torch.zeros((len(examples), width - 1), dtype=torch.bool)
        for row, example in enumerate(examples):
            tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
            wanted[row, example.answer_start - 1 : len(example.tokens) - 1] = True
        return tokens, wanted, None

    def _head_is_all(self) -> bool:
        """Whether the output layer alone turns hidden states into logits; some families scale or cap them after it."""
        probe = torch.arange(4, device=self.device).unsqueeze(0)
        self.module.eval()
        with torch.no_grad():
            direct = self._head(self._backbone(input_ids=probe, use_cache=False).last_hidden_state)
            return torch.equal(direct, self._core(input_ids=probe, use_cache=False).logits)


def _in_fp32(model: Any) -> Any:
    """PEFT keeps what it adds in fp32, but a layer that it copies to be learned as a whole in the base's precision."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for layer in module.modules_to_save.values():
                layer.float().register_forward_pre_hook(lambda _, given: (given[0].float(),))
    return model


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
