"""How versions of a model are made from versions of a dataset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.names import DatasetName, ModelName, ModelVersionName, TuningRecipeName


class Method(StrEnum):
    """How the model learns."""

    SUPERVISED = "SUPERVISED"
    DPO = "DPO"
    IPO = "IPO"
    ORPO = "ORPO"
    KTO = "KTO"
    CONTINUED_PRETRAINING = "CONTINUED_PRETRAINING"
    PRETRAINING = "PRETRAINING"
    REWARD_MODEL = "REWARD_MODEL"
    GRPO = "GRPO"
    RLOO = "RLOO"
    DISTILLATION = "DISTILLATION"
    EMBEDDING = "EMBEDDING"

    @property
    def makes_whole(self) -> bool:
        """Whether it makes a whole model and cannot make an adapter."""
        return self in (Method.PRETRAINING, Method.EMBEDDING)

    @property
    def learns_text(self) -> bool:
        """Whether it brings down the loss of given tokens; then a whole model can be learned as well as an adapter."""
        return self in (Method.SUPERVISED, Method.CONTINUED_PRETRAINING, Method.PRETRAINING, Method.DISTILLATION)

    @property
    def learns_rewards(self) -> bool:
        """Whether it draws answers and learns from their rewards."""
        return self in (Method.GRPO, Method.RLOO)


class Adaptation(StrEnum):
    """What of the base is changed."""

    LORA = "LORA"
    QLORA = "QLORA"
    FULL = "FULL"


class StartFrom(StrEnum):
    """Where a run begins."""

    BASE = "BASE"
    CHAMPION = "CHAMPION"


@dataclass(frozen=True)
class LoraConfig:
    """Shape of the adapter; the update is multiplied by alpha / rank."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    weight_decomposed: bool = False


@dataclass(frozen=True)
class Optimization:
    """How the loss is brought down; see the contract's message of the same name."""

    learning_rate: float = 1e-3
    epochs: float = 1.0
    batch_rows: int = 16
    max_sequence_tokens: int = 512
    warmup_percent: float = 5.0
    validate_every_steps: int = 0
    patience: int = 3
    max_steps: int = 0
    seed: int = 0
    packing: bool = False


@dataclass(frozen=True)
class PreferenceConfig:
    """How judgements are learned; see the contract's message of the same name."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


PLAIN_RUBRIC = "Mark how well the answer answers the question: 5 is right, complete and clear, 1 is wrong or beside it."
"""What a judge looks at unless the recipe says something else."""


class Rule(StrEnum):
    """What gives rewards without a model."""

    UNSPECIFIED = ""
    EXACT_MATCH = "EXACT_MATCH"
    CONTAINS = "CONTAINS"
    WORD_OVERLAP = "WORD_OVERLAP"
    JSON_VALID = "JSON_VALID"


@dataclass(frozen=True)
class OnlineConfig:
    """How rewards are learned; see the contract's message of the same name."""

    generations: int = 8
    max_answer_tokens: int = 128
    temperature: float = 1.0
    beta: float = 0.0
    reward_model_version: str = ""
    rule: Rule = Rule.UNSPECIFIED
    judge_model_version: str = ""
    judge_rubric: str = ""

    @property
    def sources(self) -> int:
        """How many things give the rewards; exactly one may."""
        return sum(map(bool, (self.reward_model_version, self.rule, self.judge_model_version)))


class TeacherSource(StrEnum):
    """What a student sees of its teacher."""

    LOGITS = "LOGITS"
    ANSWERS = "ANSWERS"


_ANSWERS = TeacherSource.ANSWERS


@dataclass(frozen=True)
class DistillationConfig:
    """How a teacher is learned from; see the contract's message of the same name."""

    teacher_model_version: str = ""
    source: TeacherSource = TeacherSource.LOGITS
    temperature: float = 1.0
    divergence: float = 0.0
    max_answer_tokens: int = 256
    on_policy_share: float = 0.0


@dataclass(frozen=True)
class PretrainingConfig:
    """How large a model from nothing is; see the contract's message of the same name."""

    parameters: int = 10_000_000
    vocabulary: int = 8192


@dataclass(frozen=True)
class Checks:
    """What is watched while a model learns; see the contract's message of the same name."""

    canaries: tuple[str, ...] = ()
    max_rollbacks: int = 2
    forgetting_budget_percent: float = 10.0


def default_learning_rate(method: Method, adaptation: Adaptation) -> float:
    """Peak rate that suits a method and what it changes."""
    if method is Method.PRETRAINING:
        return 1e-3
    if method is Method.EMBEDDING:
        return 5e-5
    return 1e-3 if method.learns_text and adaptation is not Adaptation.FULL else 1e-4


@dataclass(frozen=True)
class TuningRecipe:
    """Each published version of `dataset` starts a run that makes a version of `model`."""

    name: str
    dataset: str
    base_model_version: str
    model: str
    method: Method = Method.SUPERVISED
    start_from: StartFrom = StartFrom.BASE
    replay_ratio: float = 1.0
    lora: LoraConfig = LoraConfig()
    optimization: Optimization = Optimization()
    preference: PreferenceConfig = PreferenceConfig()
    adaptation: Adaptation = Adaptation.LORA
    online: OnlineConfig = OnlineConfig()
    distillation: DistillationConfig = DistillationConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    checks: Checks = Checks()

    @property
    def sha256(self) -> str:
        """Digest of everything that decides what a run does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What the process of a run is told of the recipe; models that help are given to it as files."""
        online, distillation = asdict(self.online), asdict(self.distillation)
        del online["reward_model_version"], distillation["teacher_model_version"]
        online["judge_rubric"] = (self.online.judge_rubric or PLAIN_RUBRIC) if online.pop("judge_model_version") else ""
        return {
            "method": self.method.value,
            "adaptation": self.adaptation.value,
            "replay_ratio": self.replay_ratio,
            "lora": asdict(self.lora),
            "optimization": asdict(self.optimization),
            "preference": asdict(self.preference),
            "online": online,
            "distillation": distillation,
            "pretraining": asdict(self.pretraining),
            "checks": asdict(self.checks),
        }

    @property
    def answering(self) -> tuple[float, ...]:
        """What decides how much a run lets models answer, which takes most of the time where there is some; equal ones
        take alike.
        """
        if self.method.learns_rewards:
            return (self.online.generations, self.online.max_answer_tokens)
        taught = self.distillation
        if self.method is not Method.DISTILLATION or not (taught.on_policy_share or taught.source is _ANSWERS):
            return ()
        return (float(taught.source is _ANSWERS), taught.on_policy_share, taught.max_answer_tokens)

    @property
    def helper_model_version(self) -> str:
        """The model that teaches or gives rewards, or empty."""
        if self.method is Method.DISTILLATION:
            return self.distillation.teacher_model_version
        online = self.online
        return (online.reward_model_version or online.judge_model_version) if self.method.learns_rewards else ""

    def check(self) -> None:
        """Raises `InvalidInput` unless all that the recipe names is well-named and of its own project, and fits."""
        project = TuningRecipeName.parse(self.name, "tuning_recipe.name").project
        versions = {"base_model_version": self.base_model_version}
        if self.helper_model_version:
            field = "distillation.teacher_model_version"
            if self.method is not Method.DISTILLATION:
                field = f"online.{'reward' if self.online.reward_model_version else 'judge'}_model_version"
            versions[field] = self.helper_model_version
        named = {
            "tuning_recipe.dataset": DatasetName.parse(self.dataset, "tuning_recipe.dataset").project,
            "tuning_recipe.model": ModelName.parse(self.model, "tuning_recipe.model").project,
        } | {
            f"tuning_recipe.{field}": ModelVersionName.parse(version, f"tuning_recipe.{field}").project
            for field, version in versions.items()
        }
        description = f"must be of the recipe's own project, {project}"
        foreign = [FieldViolation(field, description) for field, other in named.items() if other != project]
        if foreign:
            raise InvalidInput(f"{foreign[0].field} {description}", reason="PROJECT_DIFFERS", violations=foreign)
        base = ModelVersionName.parse(self.base_model_version)
        if str(ModelName(base.project, base.model)) == self.model:
            raise _unfit("model", "must be another model than the base", "MODEL_IS_BASE")
        self._check_method()

    def _check_method(self) -> None:
        whole, named = self.adaptation is Adaptation.FULL, f"METHOD_{self.method}"
        if whole and not (self.method.learns_text or self.method.makes_whole):
            raise _unfit("adaptation", f"must be LORA or QLORA for {named}", "ADAPTATION_UNSUPPORTED")
        if self.method.makes_whole and not whole:
            raise _unfit("adaptation", f"must be FULL for {named}", "ADAPTATION_UNSUPPORTED")
        if whole and self.start_from is StartFrom.CHAMPION:
            raise _unfit("start_from", "must be BASE when all weights are learned", "ADAPTATION_UNSUPPORTED")
        if self.method is Method.DISTILLATION and not self.helper_model_version:
            raise _unfit("distillation.teacher_model_version", f"is required for {named}", "TEACHER_MISSING")
        if self.distillation.on_policy_share and self.distillation.source is TeacherSource.ANSWERS:
            message = "must be 0 where the teacher's answers are learned; set distillation.source to SOURCE_LOGITS"
            raise _unfit("distillation.on_policy_share", message, "ON_POLICY_UNSUPPORTED")
        if self.method.learns_rewards and self.online.sources != 1:
            message = f"must have a rule, a reward_model_version or a judge_model_version for {named}, and only one"
            raise _unfit("online", message, "REWARD_MISSING")


def _unfit(field: str, description: str, reason: str) -> InvalidInput:
    field = f"tuning_recipe.{field}"
    return InvalidInput(f"{field} {description}", reason=reason, violations=[FieldViolation(field, description)])
