"""Values that the domains of several services share. Pure: no I/O, no protobuf."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


@dataclass(frozen=True)
class ArtifactRef:
    """Bytes in the project's content-addressed store.

    Attributes:
        sha256: 64 lower-case hexadecimal digits; the address.
        size_bytes: Length.
        media_type: IANA media type, or empty.
        filename: Name to show and to use on export, or empty.
    """

    sha256: str
    size_bytes: int
    media_type: str = ""
    filename: str = ""


@dataclass(frozen=True)
class Progress:
    """How far long work has come: `done` of `total` (0 while unknown) units."""

    done: int = 0
    total: int = 0
    unit: str = ""
    phase: str = ""
    remaining_s: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A measured value with its confidence interval."""

    value: float
    low: float
    high: float
    confidence_level: float


@dataclass(frozen=True)
class SliceResult:
    """What one scorer says of a part of the items; nothing but their number when they are too few."""

    slice: str
    items: int
    too_few_items: bool = False
    candidate: Estimate | None = None
    baseline: Estimate | None = None
    difference: Estimate | None = None
    p_value: float = 0.0


@dataclass(frozen=True)
class ScorerFailure:
    """Why one scorer has no result."""

    scorer: str
    reason: str
    message: str


@dataclass(frozen=True)
class ScorerResult:
    """What one scorer says of a candidate and of the baseline that it is compared with.

    Attributes:
        scorer: For example `rouge_l`.
        signature: Everything needed to compute it again.
        candidate: The candidate's score.
        baseline: The baseline's; None without one.
        difference: Candidate minus baseline, paired over items; None without a baseline.
        p_value: Two-sided, of the paired bootstrap for "no difference"; 0 without a baseline.
        lower_is_better: Whether less is better.
        test: Name of the test that `test_p_value` is of; empty without a baseline.
        test_p_value: Two-sided.
        adjusted_p_value: The same, corrected for all scorers of the run.
        minimum_detectable_effect: Smallest difference that so many items show with a probability of 0.8; 0 for unknown.
        items: Items scored; 0 in results from before they were counted here.
        slices: The same by slice.
    """

    scorer: str
    signature: str
    candidate: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None
    p_value: float = 0.0
    lower_is_better: bool = False
    test: str = ""
    test_p_value: float = 0.0
    adjusted_p_value: float = 0.0
    minimum_detectable_effect: float = 0.0
    items: int = 0
    slices: tuple[SliceResult, ...] = ()

    @property
    def gain(self) -> Estimate | None:
        """The difference, turned so that more is better; what decisions are made on."""
        return gain_of(self.difference, lower_is_better=self.lower_is_better)


def gain_of(difference: Estimate | None, *, lower_is_better: bool) -> Estimate | None:
    """A difference turned so that more is better."""
    if difference is None or not lower_is_better:
        return difference
    return Estimate(-difference.value, -difference.high, -difference.low, difference.confidence_level)


@dataclass(frozen=True)
class Fidelity:
    """How close the serving engine comes to the reference implementation in fp32, over the positions of a fixed text.

    Attributes:
        mean_kl_nats: Mean KL(reference || engine) of next-token distributions.
        top1_agreement: Share of positions at which both put the same token first.
        positions: Positions compared.
    """

    mean_kl_nats: float
    top1_agreement: float
    positions: int


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


class GuardDirection(StrEnum):
    """Which texts a guard's rule looks at."""

    INPUT = "INPUT"
    OUTPUT = "OUTPUT"
    BOTH = "BOTH"


class GuardAction(StrEnum):
    """What a door does with what a rule found; the strictest first."""

    REFUSE = "REFUSE"
    MASK = "MASK"
    RECORD = "RECORD"


class PersonalDataKind(StrEnum):
    """Personal data that is known by its form, and by its checksum where it has one."""

    MAIL_ADDRESS = "MAIL_ADDRESS"
    CARD_NUMBER = "CARD_NUMBER"
    IBAN = "IBAN"
    IP_ADDRESS = "IP_ADDRESS"
    PHONE_NUMBER = "PHONE_NUMBER"


@dataclass(frozen=True)
class GuardRule:
    """What may not come in or go out, and what happens then; exactly one of the last four is set.

    Attributes:
        id: Names it in records.
        direction: Which texts it looks at.
        action: What happens with what it finds.
        text: What is answered instead (REFUSE), or takes the place (MASK; empty for `[id]`).
        exact: Whether texts and expressions are compared character by character.
        whole_words: Whether `texts` are found only where no letter or digit stands beside them.
        texts: Texts to find.
        expressions: Regular expressions to find, in RE2's syntax.
        personal_data: Personal data to find.
        max_characters: Longest question or answer.
    """

    id: str
    direction: GuardDirection
    action: GuardAction
    text: str = ""
    exact: bool = False
    whole_words: bool = False
    texts: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()
    personal_data: tuple[PersonalDataKind, ...] = ()
    max_characters: int = 0


@dataclass(frozen=True)
class ServedGuard:
    """A version of a guard policy in full.

    Attributes:
        guard_policy_version: Where it is from.
        sha256: What `rules_sha256` said of the rules when they were written.
        rules: The rules.
    """

    guard_policy_version: str
    sha256: str
    rules: tuple[GuardRule, ...]


def rules_sha256(rules: Sequence[GuardRule]) -> str:
    """Digest of a guard's rules as canonical JSON."""
    return _canonical_sha256([asdict(rule) for rule in rules])


@dataclass(frozen=True)
class ServedUnit:
    """What goes with a model version into an answer.

    Attributes:
        prompt_version: Where the prompt is from, or empty.
        prompt: What goes before the conversation, its variables filled in.
        collection: Whose passages go before questions that name no collection, or empty.
        temperature: For callers that name none; None for no word on it.
        max_output_tokens: For callers that name none, and the most that a caller can have; 0 for no word on it.
        guard: What may not come in and go out; None for no word on it.
    """

    prompt_version: str = ""
    prompt: tuple[Message, ...] = ()
    collection: str = ""
    temperature: float | None = None
    max_output_tokens: int = 0
    guard: ServedGuard | None = None

    @property
    def sha256(self) -> str:
        """Digest of the unit as canonical JSON; empty for a unit that says nothing."""
        if self == NO_UNIT:
            return ""
        said = asdict(self)
        if self.guard is None:
            del said["guard"]  # Units from before guards keep the digests that they were measured and signed with.
        return _canonical_sha256(said)


NO_UNIT = ServedUnit()


def _canonical_sha256(value: object) -> str:
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()


def folded(text: str) -> str:
    """A text as erasures look for it: without regard to case, width of characters and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
