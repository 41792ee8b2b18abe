"""What a recipe's steps may be; how each is done stands in `adapters/steps`, and its rules in `quality.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.quality import QualityRule
from mainspring_svckit.values import ArtifactRef

DEFAULT_LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt")
_CODES = (
    "af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gu he hi hr hu hy id is it ja ka kk ko la lg lt "
    "lv mi mk mn mr ms nb nl nn pa pl pt ro ru sk sl sn so sq sr st sv sw ta te th tl tn tr ts uk ur vi xh yo zh zu"
)
KNOWN_LANGUAGES = frozenset(_CODES.split())
"""Languages (ISO 639-1) that can be told apart; a test compares them with the library's."""
DEFAULT_RULES = (
    QualityRule.GOPHER_WORD_LENGTH,
    QualityRule.GOPHER_SYMBOLS,
    QualityRule.GOPHER_LETTERS,
    QualityRule.GOPHER_LINES,
    QualityRule.GOPHER_DUPLICATE_LINES,
    QualityRule.GOPHER_TOP_NGRAMS,
    QualityRule.GOPHER_DUPLICATE_NGRAMS,
    QualityRule.C4_BOILERPLATE,
    QualityRule.REPEATED_CHARACTER,
)
"""Part of the digests of recipes that name no rules: rules that come later are not among them."""


class TextPart(StrEnum):
    """The messages of an example that a step looks at."""

    PROMPT = "PROMPT"
    ANSWER = "ANSWER"
    ALL = "ALL"


class PersonalDataKind(StrEnum):
    """Kinds of personal data that have a form of their own."""

    EMAIL_ADDRESS = "EMAIL_ADDRESS"
    PHONE_NUMBER = "PHONE_NUMBER"
    CREDIT_CARD = "CREDIT_CARD"
    IBAN = "IBAN"
    IP_ADDRESS = "IP_ADDRESS"
    CRYPTO_WALLET = "CRYPTO_WALLET"
    US_SSN = "US_SSN"
    US_ABA_ROUTING = "US_ABA_ROUTING"
    US_MEDICAL_LICENSE = "US_MEDICAL_LICENSE"
    US_NPI = "US_NPI"
    CA_SIN = "CA_SIN"
    UK_NHS = "UK_NHS"
    ES_NIF = "ES_NIF"
    ES_NIE = "ES_NIE"
    IT_FISCAL_CODE = "IT_FISCAL_CODE"
    IT_VAT_CODE = "IT_VAT_CODE"
    PL_PESEL = "PL_PESEL"
    DE_TAX_ID = "DE_TAX_ID"
    DE_SOCIAL_SECURITY = "DE_SOCIAL_SECURITY"
    DE_HEALTH_INSURANCE = "DE_HEALTH_INSURANCE"
    DE_PASSPORT = "DE_PASSPORT"
    DE_ID_CARD = "DE_ID_CARD"
    DE_LANR = "DE_LANR"
    FI_PERSONAL_IDENTITY_CODE = "FI_PERSONAL_IDENTITY_CODE"
    SE_PERSONNUMMER = "SE_PERSONNUMMER"
    SE_ORGANISATIONSNUMMER = "SE_ORGANISATIONSNUMMER"
    TR_NATIONAL_ID = "TR_NATIONAL_ID"
    AU_ABN = "AU_ABN"
    AU_ACN = "AU_ACN"
    AU_TFN = "AU_TFN"
    AU_MEDICARE = "AU_MEDICARE"
    IN_AADHAAR = "IN_AADHAAR"
    SG_UEN = "SG_UEN"
    KR_RRN = "KR_RRN"
    KR_BRN = "KR_BRN"
    TH_TNIN = "TH_TNIN"
    NG_NIN = "NG_NIN"
    ZA_ID_NUMBER = "ZA_ID_NUMBER"


USUAL_KINDS = (
    PersonalDataKind.EMAIL_ADDRESS,
    PersonalDataKind.PHONE_NUMBER,
    PersonalDataKind.CREDIT_CARD,
    PersonalDataKind.IBAN,
    PersonalDataKind.IP_ADDRESS,
    PersonalDataKind.CRYPTO_WALLET,
    PersonalDataKind.US_SSN,
)
"""Kinds that are always looked for. The others are numbers of one country, which many other numbers look like; they are
looked for where a rule names them.
"""


class PersonalDataAction(StrEnum):
    """What becomes of personal data."""

    MASK = "MASK"
    HASH = "HASH"
    DROP = "DROP"
    REFUSE = "REFUSE"
    KEEP = "KEEP"


@dataclass(frozen=True)
class TextRepair:
    """Undoes encodings that went wrong."""

    part: TextPart = TextPart.ALL
    kind: Literal["text_repair"] = "text_repair"


@dataclass(frozen=True)
class MarkupToText:
    """Turns HTML into the text that a reader would see."""

    part: TextPart = TextPart.ALL
    kind: Literal["markup_to_text"] = "markup_to_text"


@dataclass(frozen=True)
class LanguageFilter:
    """Refuses languages that are not wanted.

    Attributes:
        languages: ISO 639-1 codes to keep.
        other_languages: Further ones to tell apart from them.
        min_confidence: How sure an unwanted language must be for a refusal.
        part: Where it looks.
    """

    languages: tuple[str, ...]
    other_languages: tuple[str, ...] = DEFAULT_LANGUAGES
    min_confidence: float = 0.5
    part: TextPart = TextPart.ANSWER
    kind: Literal["language_filter"] = "language_filter"


@dataclass(frozen=True)
class LengthFilter:
    """Refuses what is too short or too long; a limit of 0 is none."""

    min_words: int = 0
    max_words: int = 0
    min_characters: int = 0
    max_characters: int = 0
    part: TextPart = TextPart.ANSWER
    kind: Literal["length_filter"] = "length_filter"


@dataclass(frozen=True)
class QualityFilter:
    """Refuses what breaks a rule."""

    rules: tuple[QualityRule, ...] = DEFAULT_RULES
    part: TextPart = TextPart.ANSWER
    kind: Literal["quality_filter"] = "quality_filter"


@dataclass(frozen=True)
class PersonalDataRule:
    """What becomes of one kind."""

    data: PersonalDataKind
    action: PersonalDataAction


@dataclass(frozen=True)
class PersonalData:
    """Treats personal data that is found by its form and its checksum."""

    default_action: PersonalDataAction = PersonalDataAction.MASK
    rules: tuple[PersonalDataRule, ...] = ()
    part: TextPart = TextPart.ALL
    kind: Literal["personal_data"] = "personal_data"

    def actions(self) -> dict[PersonalDataKind, PersonalDataAction]:
        """What becomes of each kind that is looked for; of two rules the later one counts."""
        return dict.fromkeys(USUAL_KINDS, self.default_action) | {rule.data: rule.action for rule in self.rules}


@dataclass(frozen=True)
class Secrets:
    """Treats keys and tokens that are found by their form and their checksum."""

    action: PersonalDataAction = PersonalDataAction.MASK
    part: TextPart = TextPart.ALL
    kind: Literal["secrets"] = "secrets"


@dataclass(frozen=True)
class WordList:
    """Refuses texts with words of a list that the user brings.

    Attributes:
        words: Words and phrases.
        file: An uploaded file with more, one a line.
        min_hits: How many make a row refused.
        part: Where it looks.
    """

    words: tuple[str, ...] = ()
    file: ArtifactRef | None = None
    min_hits: int = 1
    part: TextPart = TextPart.ALL
    kind: Literal["word_list"] = "word_list"


@dataclass(frozen=True)
class TokenStatistics:
    """Counts tokens.

    Attributes:
        file: A model's `tokenizer.json`; or else `model_version`.
        max_tokens: Most tokens of a row; 0 for no limit.
        part: What is counted.
        model_version: A registered model version whose tokenizer it is.
    """

    file: ArtifactRef | None = None
    max_tokens: int = 0
    part: TextPart = TextPart.ALL
    model_version: str = ""
    kind: Literal["token_statistics"] = "token_statistics"


class BalanceBy(StrEnum):
    """What makes a class of rows."""

    LABEL = "LABEL"
    SOURCE = "SOURCE"
    GROUP = "GROUP"
    LENGTH = "LENGTH"
    CLUSTER = "CLUSTER"


@dataclass(frozen=True)
class BalanceClusters:
    """How rows are clustered.

    Attributes:
        embedding_model_version: What makes the vectors.
        count: Clusters at most.
        seed: Chooses the row at which the search for centres begins.
    """

    embedding_model_version: str
    count: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Balance:
    """Evens out classes of rows.

    Attributes:
        by: What makes a class.
        max_rows: Most rows of one; 0 for no limit.
        max_ratio: Most rows of one, as a multiple of those of the smallest; 0 for no limit.
        sample_rows: Most rows of all, each class keeping its part of the whole; 0 for no limit.
        min_weight: What a class counts in training at least, as a part of the largest; 0 leaves it at its rows.
        max_repeats: How often a row is seen at most in one pass of training.
        clusters: How rows are clustered; None for other classes.
    """

    by: BalanceBy
    max_rows: int = 0
    max_ratio: float = 0.0
    sample_rows: int = 0
    min_weight: float = 0.0
    max_repeats: int = 10
    clusters: BalanceClusters | None = None
    kind: Literal["balance"] = "balance"


class Keep(StrEnum):
    """Which of rows that are almost the same stays."""

    FIRST = "FIRST"
    LONGEST = "LONGEST"


@dataclass(frozen=True)
class NearDuplicates:
    """Refuses rows whose prompt and answer are each almost those of a row before.

    Attributes:
        threshold: Jaccard similarity of the sets of shingles from which two texts are almost the same.
        shingle_words: Words in a row that are compared as one.
        part: Which texts are compared; `ALL` is prompt and answer, each by itself.
        keep: Which row stays.
    """

    threshold: float = 0.9
    shingle_words: int = 3
    part: TextPart = TextPart.ALL
    keep: Keep = Keep.FIRST
    kind: Literal["near_duplicates"] = "near_duplicates"


@dataclass(frozen=True)
class Decontamination:
    """Refuses rows that an evaluation set holds.

    Attributes:
        dataset_version: The version whose splits are the evaluation set; or else `file` or `evaluation_suite_version`.
        file: An uploaded evaluation set.
        columns: Its columns, where they differ from the recipe's.
        ngram_words: Words in a row that are compared as one.
        ngram_overlap: Share of an evaluation example's n-grams from which a row is a leak.
        splits: Splits of `dataset_version`, by name; the test split when empty.
        evaluation_suite_version: A version of an evaluation suite, all of whose dataset items are the evaluation set.
    """

    dataset_version: str = ""
    file: ArtifactRef | None = None
    columns: ColumnMapping | None = None
    ngram_words: int = 8
    ngram_overlap: float = 0.8
    splits: tuple[str, ...] = ()
    evaluation_suite_version: str = ""
    kind: Literal["decontamination"] = "decontamination"


@dataclass(frozen=True)
class ReferenceExamples:
    """Examples of what the data is for; the attributes are those of `Decontamination`, and nothing is refused."""

    dataset_version: str = ""
    file: ArtifactRef | None = None
    columns: ColumnMapping | None = None
    splits: tuple[str, ...] = ()
    evaluation_suite_version: str = ""


RecipeStep = (
    TextRepair
    | MarkupToText
    | LanguageFilter
    | LengthFilter
    | QualityFilter
    | PersonalData
    | NearDuplicates
    | Decontamination
    | Secrets
    | WordList
    | TokenStatistics
    | Balance
)
