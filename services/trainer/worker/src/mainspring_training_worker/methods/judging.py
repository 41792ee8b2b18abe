"""A model that marks answers by a rubric: the mean of the marks by their probabilities, as in G-Eval (Liu et al. 2023,
arXiv:2303.16634).

It is computed in the run's own process, not asked over a network: the same answers get the same marks when a run is
resumed, and a run never waits for somebody else's server (adr/0026).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mainspring_training_worker.device import CPU
from mainspring_training_worker.encoding import rendered
from mainspring_training_worker.methods.helpers import load_causal
from mainspring_training_worker.model import load_tokenizer
from mainspring_training_worker.rows import Message
from mainspring_training_worker.spec import Helper, Refused

MARKS = "12345"
_AT_ONCE, _ENOUGH, _MOST_NONSENSE = 8, 64, 0.5

Judged = tuple[Sequence[Message], str, str]
"""What was asked, the answer, and the row's own answer."""


def judged_text(rubric: str, judged: Judged) -> str:
    """What the judge is told."""
    prompt, answer, reference = judged
    asked = "\n".join(message["content"] for message in prompt)
    parts = (rubric, f"Question:\n{asked}", f"A good answer:\n{reference}", f"Answer:\n{answer}", "Mark from 1 to 5:")
    return "\n\n".join(parts)


class Judge:
    """Marks answers, and counts those for which it has no mark."""

    def __init__(self, helper: Helper, rubric: str, device: torch.device = CPU) -> None:
        """Loads the model.

        Raises:
            Refused: JUDGE_UNUSABLE, its tokenizer has no single tokens for the marks.
        """
        self._rubric, self._tokenizer = rubric, load_tokenizer(helper.base_model)
        encoded: list[list[int]] = [self._tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in MARKS]
        if any(len(tokens) != 1 for tokens in encoded):
            raise Refused("JUDGE_UNUSABLE", "the judge's tokenizer cuts the marks 1 to 5 in pieces; name another judge")
        self._device, self._marks = device, torch.tensor([tokens[0] for tokens in encoded], device=device)
        self._tokenizer.padding_side = "left"
        self._model = load_causal(helper, "fp32", device)
        self._asked = self._nonsense = 0
        self._all_asked = self._all_nonsense = 0

    def score(self, judged: Sequence[Judged]) -> list[float]:
        """A number from 0 to 1 for each; 0 where the judge would say something else than a mark.

        Raises:
            Refused: JUDGE_UNUSABLE, it has no mark for most answers; CHAT_TEMPLATE_UNUSABLE.
        """
        rewards: list[float] = []
        for start in range(0, len(judged), _AT_ONCE):
            rewards += self._some(judged[start : start + _AT_ONCE])
        if self._all_asked >= _ENOUGH and self._all_nonsense > _MOST_NONSENSE * self._all_asked:
            message = f"the judge had no mark from 1 to 5 for {self._all_nonsense} of {self._all_asked} answers;"
            raise Refused("JUDGE_UNUSABLE", f"{message} name a judge that follows instructions, or mend the rubric")
        return rewards

    def measures(self) -> dict[str, float]:
        """The share of answers without a mark since the last call."""
        found = {"judge_nonsense": self._nonsense / self._asked} if self._asked else {}
        self._asked = self._nonsense = 0
        return found

    def _some(self, judged: Sequence[Judged]) -> list[float]:
        turns = [[{"role": "user", "content": judged_text(self._rubric, one)}] for one in judged]
        told = [rendered(self._tokenizer, turn, prompt=True) for turn in turns]
        asked = self._tokenizer(told, add_special_tokens=False, padding=True, return_tensors="pt").to(self._device)
        position = (asked["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = self._model(**asked, position_ids=position, use_cache=False).logits[:, -1].float()
        says_mark = torch.isin(logits.argmax(-1), self._marks)
        marks = torch.softmax(logits[:, self._marks], dim=-1) @ torch.linspace(0, 1, len(MARKS), device=self._device)
        nonsense = int((~says_mark).sum())
        self._asked, self._nonsense = self._asked + len(judged), self._nonsense + nonsense
        self._all_asked, self._all_nonsense = self._all_asked + len(judged), self._all_nonsense + nonsense
        return torch.where(says_mark, marks, torch.zeros((), device=self._device)).tolist()
