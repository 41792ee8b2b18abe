"""What MLflow loads an exported version with. The file is copied into the export, and imports nothing of Mainspring.

`mlflow.pyfunc.load_model(FOLDER, model_config={"base_model": PATH})` needs torch and transformers, and PEFT for an
adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Answers:
    """A model that answers questions, each on its own, always with the most probable token."""

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int) -> None:
        self._model, self._tokenizer, self._max_new_tokens = model, tokenizer, max_new_tokens

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Answers.

        Args:
            model_input: Questions, or a data frame whose first column has them.
            params: `max_new_tokens` instead of that of the model's configuration.
        """
        asked = model_input.iloc[:, 0].tolist() if hasattr(model_input, "iloc") else list(model_input)
        limit = int((params or {}).get("max_new_tokens", self._max_new_tokens))
        return [self._answer(str(question), limit) for question in asked]

    def _answer(self, question: str, limit: int) -> str:
        messages = [{"role": "user", "content": question}]
        given = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = self._model.generate(**given, do_sample=False, max_new_tokens=limit)
        return str(self._tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Answers:  # pyright: ignore[reportUnusedFunction] - MLflow calls it.
    """Loads what was exported; MLflow calls it with the folder and `model_config`.

    Raises:
        ValueError: It is an adapter, and the folder of its base is not named.
    """
    transformers: Any = __import__("transformers")
    wanted = model_config or {}
    folder, base = path, str(wanted.get("base_model") or "")
    is_adapter = (Path(path) / "adapter_config.json").exists()
    if is_adapter:
        if not base:
            named = wanted.get("base_model_version", "another version")
            raise ValueError(
                f"this is an adapter of {named}: export that one, too, and name its folder:"
                " load_model(..., model_config={'base_model': FOLDER})"
            )
        folder = base
    safe = {"use_safetensors": True, "trust_remote_code": False}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **safe)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if is_adapter:
        model = __import__("peft").PeftModel.from_pretrained(model, path)
    return Answers(model.eval(), tokenizer, int(wanted.get("max_new_tokens", 256)))
