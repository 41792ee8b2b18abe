"""The recipe's steps, each with its own library, and how they work together in a refining process."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lingua import Language
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mainspring_data_ingest.adapters import steps
from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.quality import QualityRule, problem_of
from mainspring_data_ingest.domain.records import RowRefused
from mainspring_data_ingest.domain.steps import (
    DEFAULT_RULES,
    KNOWN_LANGUAGES,
    USUAL_KINDS,
    LanguageFilter,
    LengthFilter,
    MarkupToText,
    NearDuplicates,
    PersonalData,
    PersonalDataAction,
    PersonalDataKind,
    PersonalDataRule,
    QualityFilter,
    RecipeStep,
    Secrets,
    TextPart,
    TextRepair,
    TokenStatistics,
    WordList,
)
from mainspring_svckit.errors import InvalidInput
from mainspring_svckit.values import ArtifactRef

from .refining import SENTENCE, changed_in, draft, kept, refined, refused, refused_in


def applied(step: RecipeStep, answer: str, prompt: str = "q") -> str:
    built = steps.build(step, ())
    assert built is not None
    made = built.apply(draft(answer, prompt))
    return made.messages[-1].content


def refusal(step: RecipeStep, answer: str, prompt: str = "q") -> str:
    """The reason; empty when the row passes."""
    try:
        applied(step, answer, prompt)
    except RowRefused as err:
        assert err.detail
        return err.reason.value
    return ""


@pytest.mark.parametrize(
    ("broken", "right"),
    [
        ("Itâ€™s a cafÃ©", "It’s a café"),
        ("â€œlovelyâ€\ufffd naÃ¯ve", "“lovely” naïve"),
        ("cafe\u0301", "café"),
        ("a\x07b", "ab"),
        ("plain  text\n\tstays", "plain  text\n\tstays"),
        ("“quotes” and ﬁ stay", "“quotes” and ﬁ stay"),
        ("日本語 и русский", "日本語 и русский"),
    ],
)
def test_b5_encodings_are_repaired_and_right_text_stays(broken: str, right: str) -> None:
    assert applied(TextRepair(), broken) == right


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>a  b</p>&nbsp;<br/><script>x()</script>", "a  b"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("a<br>b &amp; c", "a\nb & c"),
        ("fish &amp; chips", "fish & chips"),
        ("<table><tr><td>1</td> <td>2</td></tr></table>", "1 2"),
        ("<!-- note --><b>bold</b> text", "bold text"),
        ("if a < b and b > c: List<T>", "if a < b and b > c: List<T>"),
        ("<EMAIL_ADDRESS> & co", "<EMAIL_ADDRESS> & co"),
        ("<p>" * 3000 + "deep", "deep"),
    ],
)
def test_markup_becomes_text_and_code_stays(markup: str, text: str) -> None:
    assert applied(MarkupToText(), markup) == text


def test_only_the_named_part_is_changed() -> None:
    step = steps.build(MarkupToText(TextPart.PROMPT), ())
    assert step is not None
    assert step.apply(draft("<b>a</b>", "<b>q</b>")) == draft("<b>a</b>", "q")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SENTENCE, ""),
        ("Ce restaurant au bord de la rivière propose une cuisine italienne.", "WRONG_LANGUAGE"),
        ("Das Restaurant liegt im Stadtzentrum und ist für Familien geeignet.", "WRONG_LANGUAGE"),
        ("Bibimbap House is near Café Sicilia in city centre.", ""),
        ("12", ""),
    ],
)
def test_unwanted_languages_are_refused_and_doubtful_ones_kept(text: str, reason: str) -> None:
    assert refusal(LanguageFilter(("en",)), text) == reason


def test_the_known_languages_are_the_library_s() -> None:
    assert {language.iso_code_639_1.name.lower() for language in Language.all()} == KNOWN_LANGUAGES


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ok", "WRONG_LENGTH"), ("one two", ""), ("a b c d e", "WRONG_LENGTH"), ("x" * 30, "WRONG_LENGTH")],
)
def test_lengths_are_limited(text: str, reason: str) -> None:
    assert refusal(LengthFilter(min_words=2, max_words=4, max_characters=20), text) == reason


FOR_PAGES = frozenset(list(QualityRule)[11:])
"""Rules that demand what a page has; the others let short texts pass."""
LINES = (
    "A text of many lines is no list.\nEach line says what no other says.\nNone of them comes again here.\n"
    "They end as sentences do, with a stop.\nAnd the last of them ends it all."
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (SENTENCE, ""),
        (LINES, ""),
        ("supercalifragilistic antidisestablishmentarian " * 3, "GOPHER_WORD_LENGTH"),
        ("# one # two # three # four", "GOPHER_SYMBOLS"),
        ("!!!??? " * 40, "GOPHER_LETTERS"),
        ("!!!???" * 20, "GOPHER_LETTERS"),
        ("- one\n- two\n- three\n- four", "GOPHER_LINES"),
        ("read more...\nread on...\nand so on", "GOPHER_LINES"),
        ("one line\nthe same\nthe same\nthe same", "GOPHER_DUPLICATE_LINES"),
        ("the " * 60, "GOPHER_TOP_NGRAMS"),
        (f"{SENTENCE} {SENTENCE} {SENTENCE}", "GOPHER_DUPLICATE_NGRAMS"),
        ("You must enable JavaScript to read this.", "C4_BOILERPLATE"),
        ("a" * 200, "REPEATED_CHARACTER"),
        ("home\nabout us\ncontact\nlogin\nnews", "FINEWEB_LINES"),
        (
            "A first line, quite long.\nA second line, quite long.\nA third one.\nFourth.\nA first line, quite long.",
            "FINEWEB_DUPLICATE_LINES",
        ),
        (LINES, "GOPHER_WORD_COUNT"),
        ("Seltsam wirkt dieser deutsche Satz und doch that er nichts.", "GOPHER_STOP_WORDS"),
        ("Every line of it ends well.\nBut for this one, which does not", "C4_TERMINAL_PUNCTUATION"),
        ("This one only trails off into nothing...", "C4_TERMINAL_PUNCTUATION"),
        ("There are two of them. That is not enough, at 3.14 or v1.2.", "C4_SENTENCES"),
        ("A heading of four\nAnd then a sentence of quite some length.", "C4_LINE_WORDS"),
        ("It is as in the set {1, 2, 3}, as one would expect.", "C4_CURLY_BRACKETS"),
        ("It goes on as Lorem Ipsum does for all of the page.", "C4_LOREM_IPSUM"),
        ("They say that JavaScript is a language for the web.", "C4_BAD_LINES"),
        ("See our cookie policy for what we keep of you.", "C4_BAD_LINES"),
    ],
)
def test_quality_rules_refuse_what_they_are_published_for(text: str, rule: str) -> None:
    rules = [QualityRule(rule)] if rule else [r for r in QualityRule if r not in FOR_PAGES]
    assert problem_of(text, rules).partition(":")[0] == rule
    assert refusal(QualityFilter(tuple(rules)), text) == ("LOW_QUALITY" if rule else "")


def test_a_page_of_prose_passes_every_rule() -> None:
    page = f"{LINES}\n{SENTENCE}\n\u201cWhat is there to say of it?\u201d\nThis is all that we have to tell you!"
    assert problem_of(page, list(QualityRule)) == ""
    assert set(DEFAULT_RULES) & FOR_PAGES == set()


@given(st.text(max_size=300))
def test_b1_no_text_breaks_repair_markup_or_quality(text: str) -> None:
    assert refusal(TextRepair(), text) == refusal(MarkupToText(), text) == ""
    assert refusal(QualityFilter(tuple(QualityRule)), text) in {"", "LOW_QUALITY"}


PERSONAL = [
    ("o.brien1@mail.example.org", "EMAIL_ADDRESS"),
    ("4407182939889702", "CREDIT_CARD"),
    ("GB29NWBK60161331926819", "IBAN"),
    ("203.0.113.246", "IP_ADDRESS"),
    ("2001:db8::ff00:42:8329", "IP_ADDRESS"),
    ("+44 20 7946 0402", "PHONE_NUMBER"),
    ("536-22-1234", "US_SSN"),
    ("1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "CRYPTO_WALLET"),
]


@pytest.mark.parametrize(("value", "kind"), PERSONAL)
def test_b9_personal_data_is_masked(value: str, kind: str) -> None:
    assert applied(PersonalData(), f"Book with {value}.") == f"Book with <{kind}>."


# The kind, a number that is right, and one whose check digit (or, of those without, another part) is wrong.
OF_COUNTRIES = [
    ("US_ABA_ROUTING", "021000021", "021000022"),
    ("US_MEDICAL_LICENSE", "BB1388568", "BB1388569"),
    ("US_NPI", "1234567893", "1234567890"),
    ("CA_SIN", "130 692 544", "130 692 545"),
    ("UK_NHS", "401-023-2137", "401-023-2138"),
    ("ES_NIF", "55555555K", "55555555A"),
    ("ES_NIE", "X9613851N", "X9613851A"),
    ("IT_FISCAL_CODE", "RSSMRK85T10Z562B", "RSSMRK85T10Z562C"),
    ("IT_VAT_CODE", "01333550323", "01333550324"),
    ("PL_PESEL", "11111111116", "11111111117"),
    ("DE_TAX_ID", "84152772231", "84152772232"),
    ("DE_SOCIAL_SECURITY", "15070640C570", "15070640C571"),
    ("DE_HEALTH_INSURANCE", "Y082533139", "Y082533138"),
    ("DE_PASSPORT", "C15172882", "C15172883"),
    ("DE_ID_CARD", "L93269817", "L93269818"),
    ("DE_LANR", "248591402", "248591502"),
    ("FI_PERSONAL_IDENTITY_CODE", "131052-308T", "131052-308U"),
    ("SE_PERSONNUMMER", "811218-9876", "811218-9877"),
    ("SE_ORGANISATIONSNUMMER", "556922-3414", "556922-3415"),
    ("TR_NATIONAL_ID", "10000000146", "10000000147"),
    ("AU_ABN", "51 824 753 556", "51 824 753 557"),
    ("AU_ACN", "000 000 019", "000 000 018"),
    ("AU_TFN", "876 543 210", "876 543 211"),
    ("AU_MEDICARE", "2123 45670 1", "2123 45680 1"),
    ("IN_AADHAAR", "3123 4567 8909", "3123 4567 8908"),
    ("SG_UEN", "53125226D", "53125226E"),
    ("KR_RRN", "960121-1019016", "961321-1019016"),
    ("KR_BRN", "124-81-00998", "124-81-00997"),
    ("TH_TNIN", "1109176182981", "1109176182982"),
    ("NG_NIN", "11475165879", "11475165878"),
    ("ZA_ID_NUMBER", "8001015009087", "8001015009088"),
]


@pytest.mark.parametrize(("kind", "right", "wrong"), OF_COUNTRIES)
def test_b9_numbers_of_single_countries_are_masked_where_a_rule_names_them(kind: str, right: str, wrong: str) -> None:
    keep = PersonalDataRule(PersonalDataKind.PHONE_NUMBER, PersonalDataAction.KEEP)
    named = PersonalData(rules=(keep, PersonalDataRule(PersonalDataKind(kind), PersonalDataAction.MASK)))
    assert applied(named, f"It is {right}.") == f"It is <{kind}>."
    for text in (f"It is {wrong}.", f"It is x{right}9.", SENTENCE):
        assert applied(named, text) == text
    assert applied(PersonalData(rules=(keep,)), f"It is {right}.") == f"It is {right}."


def test_every_kind_of_personal_data_has_an_example() -> None:
    assert {kind for kind, _, _ in OF_COUNTRIES} == {kind.value for kind in PersonalDataKind} - set(USUAL_KINDS)
    assert {kind for _, kind in PERSONAL} == set(USUAL_KINDS)


@pytest.mark.parametrize(
    "text", ["rated 3 out of 5, £20-25", "at 12:30:45", "std::vector and ::1", "4407182939889703", "a@b", SENTENCE]
)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    rules = (PersonalDataRule(PersonalDataKind.PHONE_NUMBER, PersonalDataAction.KEEP),)
    assert applied(PersonalData(rules=rules), text) == text


def test_each_kind_of_personal_data_is_treated_as_its_rule_says() -> None:
    rules = (
        PersonalDataRule(PersonalDataKind.IBAN, PersonalDataAction.DROP),
        PersonalDataRule(PersonalDataKind.CREDIT_CARD, PersonalDataAction.REFUSE),
        PersonalDataRule(PersonalDataKind.IP_ADDRESS, PersonalDataAction.KEEP),
    )
    step = PersonalData(PersonalDataAction.HASH, rules)
    first, again, other = (applied(step, f"to {name}@example.com") for name in ("a", "a", "b"))
    assert first == again != other
    assert first.startswith("to <EMAIL_ADDRESS:")
    assert applied(step, "pay GB29NWBK60161331926819 from 203.0.113.246") == "pay  from 203.0.113.246"
    assert refusal(step, "pay by 4407182939889702") == "PERSONAL_DATA"


def test_b9_every_row_is_accounted_for_step_by_step(tmp_path: Path) -> None:
    rows = [
        {"mr": "q1", "ref": "cafÃ© with <b>tables</b>"},
        {"mr": "q2", "ref": "mail me@example.com"},
        {"mr": "q3", "ref": "ok"},
        {"mr": "q4", "ref": 4},
        {"mr": "q5", "ref": "<script>x()</script>"},
        {"mr": "q6", "ref": "nothing to do"},
        {"mr": "q6", "ref": "nothing to do"},
    ]
    made = refined(tmp_path, rows, TextRepair(), MarkupToText(), LengthFilter(min_words=2), PersonalData())
    assert kept(made) == {1: "café with tables", 2: "mail <EMAIL_ADDRESS>", 6: "nothing to do"}
    reasons = Counter(reason for reason, _ in refused(made).values())
    assert reasons == {"WRONG_LENGTH": 1, "NOT_TEXT": 1, "EMPTY": 1, "EXACT_DUPLICATE": 1}
    report = made.report
    assert (report.input_rows, report.kept_unchanged, report.kept_changed) == (7, 1, 2)
    assert report.input_rows == report.kept_unchanged + report.kept_changed + sum(report.refused.values())
    passed = [(step.step, step.passed, step.changed, sum(step.refused.values())) for step in report.steps]
    assert passed == [
        ("text_repair", 6, 1, 0),
        ("markup_to_text", 5, 1, 1),
        ("length_filter", 4, 0, 1),
        ("personal_data", 4, 1, 0),
    ]
    assert report.steps[3].found == {"EMAIL_ADDRESS": 1}
    assert (report.before.rows, report.after.rows) == (6, 3)
    # And row by row.
    assert refused_in(made) == {
        3: ("WRONG_LENGTH", "length_filter", 3),
        4: ("NOT_TEXT", "reading", 0),
        5: ("EMPTY", "markup_to_text", 2),
        7: ("EXACT_DUPLICATE", "exact_duplicates", 0),
    }
    assert changed_in(made) == {1: [("text_repair", 1), ("markup_to_text", 2)], 2: [("personal_data", 4)]}


def test_b9_steps_that_refuse_for_the_same_reason_are_told_apart_row_by_row(tmp_path: Path) -> None:
    rows = [
        {"mr": "q1", "ref": "one"},
        {"mr": "q2", "ref": ""},
        {"mr": "q3", "ref": "<script>x y z()</script>"},
        {"mr": "q4", "ref": "<b>one two</b> three four"},
        {"mr": "q5", "ref": "<b>one</b> two"},
        {"mr": "q5", "ref": "one <i>two</i>"},
        {"mr": "q5", "ref": "one  TWO!"},
    ]
    made = refined(
        tmp_path, rows, LengthFilter(min_words=2), MarkupToText(), NearDuplicates(), LengthFilter(max_words=3)
    )
    assert refused_in(made) == {
        1: ("WRONG_LENGTH", "length_filter", 1),
        2: ("EMPTY", "reading", 0),
        3: ("EMPTY", "markup_to_text", 2),
        4: ("WRONG_LENGTH", "length_filter", 4),
        6: ("EXACT_DUPLICATE", "exact_duplicates", 0),
        7: ("NEAR_DUPLICATE", "near_duplicates", 3),
    }
    # What is refused in the end is not told as changed.
    assert changed_in(made) == {5: [("markup_to_text", 2)]}


def test_versions_whose_rows_no_step_changes_say_nothing_of_changes(tmp_path: Path) -> None:
    assert refined(tmp_path, [{"mr": "q", "ref": "a"}], TextRepair()).changed is None


def test_the_same_rows_and_steps_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [{"mr": f"q{number % 40}", "ref": f"{SENTENCE} {number % 37}"} for number in range(200)]
    reports: list[bytes] = []
    digests: list[list[str]] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = refined(tmp_path / name, rows, TextRepair(), QualityFilter(), NearDuplicates(threshold=0.8))
        reports.append(made.report.as_bytes())
        digests.append([shard.rows_sha256 for shard in made.shards])
    assert reports[0] == reports[1]
    assert digests[0] == digests[1]


GITHUB = "ghp_" + "a" * 30 + "1yLcDB"  # With a right checksum; nobody's.
SECRETS = [
    (GITHUB, "GITHUB_TOKEN"),
    ("AKIA" + "IOSFODNN7EXAMPLE", "AWS_ACCESS_KEY"),
    ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "PRIVATE_KEY"),
    ("xoxb-" + "1234567890-abcdef", "SLACK_TOKEN"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "JSON_WEB_TOKEN"),
    ("me:hunter2", "URL_PASSWORD"),
]


@pytest.mark.parametrize(("value", "kind"), SECRETS)
def test_b9_secrets_in_code_are_masked(value: str, kind: str) -> None:
    before, after = ("url = https://", "@host/x") if kind == "URL_PASSWORD" else ("key = '", "'")
    assert applied(Secrets(), f"{before}{value}{after}") == f"{before}<{kind}>{after}"
    assert refusal(Secrets(PersonalDataAction.REFUSE), f"{before}{value}{after}") == "SECRET"
    assert applied(Secrets(PersonalDataAction.DROP), f"{before}{value}{after}") == f"{before}{after}"


@pytest.mark.parametrize(
    "text",
    ["ghp_" + "a" * 36, "sha256 = " + "0f" * 32, "eyJhbGci.eyJub3Rqc29u.c2lnbmF0dXJl", "http://host:80/a@b", SENTENCE],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert applied(Secrets(), text) == text


def test_listed_words_refuse_rows_as_whole_words_and_phrases(tmp_path: Path) -> None:
    words = WordList(("darn", "Go Away"))
    assert refusal(words, "DARN, it rains") == refusal(words, "please go, away!") == "LISTED_WORD"
    assert refusal(words, "darning and going away") == ""
    assert refusal(WordList(("darn",), min_hits=2), "darn it") == ""
    listed = tmp_path / "words.txt"
    listed.write_text("rain\n\nsnow\n")
    rows = [{"mr": "a", "ref": "Rain."}, {"mr": "b", "ref": "sun"}]
    held_out = ((SourceFile(listed, "words", SourceFormat.TEXT, None),),)
    made = refined(tmp_path, rows, WordList(file=ArtifactRef("0" * 64, 1)), held_out=held_out)
    assert sorted(kept(made)) == [2]
    assert made.report.steps[0].found == {"listed_words": 2, "rows_with_listed_words": 1}


def test_a_word_list_without_words_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("\n...\n")
    files = ((SourceFile(listed, "words", SourceFormat.TEXT, None),),)
    with pytest.raises(InvalidInput) as caught:
        refined(tmp_path, [{"mr": "q", "ref": "a"}], WordList(file=ArtifactRef("0" * 64, 1)), held_out=files)
    assert caught.value.reason == "WORD_LIST_EMPTY"


def test_tokens_are_counted_and_limited(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    files = ((SourceFile(path, "tokenizer", SourceFormat.TEXT, None),),)
    rows = [{"mr": "one", "ref": "two two"}, {"mr": "one", "ref": "two " * 80}]
    made = refined(tmp_path, rows, TokenStatistics(ArtifactRef("0" * 64, 1), max_tokens=64), held_out=files)
    assert refused(made) == {2: ("WRONG_LENGTH", "has 81 tokens; the recipe wants at most 64")}
    assert made.report.steps[0].found == {"rows_to_0064_tokens": 1, "rows_to_0128_tokens": 1, "tokens": 84}
    path.write_text("{}")
    with pytest.raises(InvalidInput) as caught:
        refined(tmp_path, rows[:1], TokenStatistics(ArtifactRef("1" * 64, 1)), held_out=files)
    assert caught.value.reason == "TOKENIZER_UNREADABLE"
