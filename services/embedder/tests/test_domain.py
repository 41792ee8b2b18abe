import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_embedder.domain.chunking import MAX_TOKENS, MAX_WORDS, chunks_of, first_part, tokens_in
from mainspring_embedder.domain.collections import BUILD_STATES, BuildState, Collection, Index, IndexBuild
from mainspring_embedder.domain.documents import Document, LineRefused, Refusal, Survey, parse_line
from mainspring_embedder.domain.vectors import unit
from mainspring_svckit.errors import IllegalTransition, PreconditionFailed
from mainspring_svckit.values import ArtifactRef, Progress
from mainspring_testkit.contracts.states import assert_as_declared

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BUILD = IndexBuild("projects/p/collections/c/indexBuilds/b", "projects/p/collections/c", 1, 7, ArtifactRef("a", 1), NOW)


def document(text: str, title: str = "Title") -> Document:
    return Document("d", title, "https://example.org/d", text)


def test_the_state_machine_is_as_the_contract_says() -> None:
    assert_as_declared(BUILD_STATES, "embedding/v1/collection.proto", "IndexBuild")


def test_a_build_taken_over_goes_on_and_one_that_ended_cannot_change() -> None:
    running = BUILD.started()
    assert running.started() == running
    done = running.succeeded(Progress(3, 3, "chunks"), NOW)
    assert (done.state, done.end_time) == (BuildState.SUCCEEDED, NOW)
    with pytest.raises(IllegalTransition):
        done.failed("X", "x", NOW)


def test_indexes_are_numbered_and_one_is_active() -> None:
    collection = Collection("projects/p/collections/c", "projects/p/models/e/versions/1", NOW)
    collection, first = collection.with_index()
    collection, second = collection.with_index()
    assert (first, second, collection.active) == (1, 2, None)
    assert collection.refreshed(Index(2, 9, 1, 1, 384), NOW).active == Index(2, 9, 1, 1, 384)


def test_a_short_document_is_one_chunk_that_is_read_with_its_title() -> None:
    (chunk,) = chunks_of(document("Roses are red.\n\nViolets are blue."))
    assert chunk.text == "Roses are red.\n\nViolets are blue."
    assert chunk.to_embed == "Title\nRoses are red.\n\nViolets are blue."
    assert (chunk.document_id, chunk.title, chunk.uri) == ("d", "Title", "https://example.org/d")
    assert chunks_of(document("x", title=""))[0].to_embed == "x"


def test_paragraphs_stay_together_as_far_as_they_fit() -> None:
    paragraphs = [" ".join([f"p{number}"] + ["word"] * 59) for number in range(7)]
    texts = [chunk.text for chunk in chunks_of(document("\n\n".join(paragraphs)))]
    assert texts == ["\n\n".join(paragraphs[start : start + 3]) for start in (0, 3, 6)]


def test_what_is_too_long_is_cut_at_lines_then_sentences_then_words_then_characters() -> None:
    sentence = "one two three four five six seven eight nine ten."
    lines = chunks_of(document("\n".join([sentence * 8] * 4)))
    assert all("\n" not in chunk.text[:60] for chunk in lines)
    sentences = chunks_of(document(" ".join([sentence] * 40)))
    assert all(chunk.text.endswith("ten.") for chunk in sentences)
    assert len(chunks_of(document(" ".join(f"word{number}" for number in range(400))))) > 2
    characters = chunks_of(document("".join(map(chr, range(0x4E00, 0x4E00 + 3 * MAX_TOKENS)))))
    assert len(characters) >= 3


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)
texts = st.lists(st.tuples(words, st.sampled_from([" ", "\n", "\n\n", ". ", ""])), max_size=400).map(
    lambda parts: "".join(word + end for word, end in parts)
)


@given(texts, st.text(max_size=300))
def test_chunks_fit_and_lose_no_word(text: str, title: str) -> None:
    chunks = chunks_of(document(text, title))
    for chunk in chunks:
        assert len(chunk.text.split()) <= MAX_WORDS
        assert tokens_in(chunk.to_embed) <= MAX_TOKENS + 1
    kept = "".join("".join(chunk.text.split()) for chunk in chunks)
    assert set(kept) == set("".join(text.split())), "a text that comes twice is kept once, so characters are compared"
    assert chunks_of(document(text, title)) == chunks


def test_ids_follow_from_what_a_chunk_says() -> None:
    long = "\n\n".join(" ".join([f"p{number}"] + ["word"] * 150) for number in range(3))
    before = chunks_of(document(long))
    after = chunks_of(document("new beginning " * 80 + "\n\n" + long))
    assert {chunk.id for chunk in before} < {chunk.id for chunk in after}
    assert len({chunk.id for chunk in before}) == 3
    assert chunks_of(Document("e", "Title", "", long))[0].id != before[0].id


def test_halves_say_what_the_whole_said_until_nothing_can_be_cut() -> None:
    (chunk,) = chunks_of(document("a bc def"))
    halves = chunk.halves()
    assert halves is not None
    assert " ".join(half.text for half in halves) == "a bc def"
    assert chunks_of(document("x"))[0].halves() is None


def test_the_first_part_of_a_text_fits() -> None:
    assert first_part("  a b  ", 5) == "a b"
    assert first_part("a b c d e f", 3) == "a b c"
    assert first_part("x" * 1000, 10) == "x" * 10
    assert first_part("", 3) == ""


def test_tokens_are_estimated_from_punctuation_long_words_and_other_scripts() -> None:
    assert tokens_in("the cat sat") == 3
    assert tokens_in("a.b_c()") == 7
    assert tokens_in("internationalisation") > 3
    assert tokens_in("日本語") == 3


def refusal(line: bytes) -> Refusal:
    with pytest.raises(LineRefused) as caught:
        parse_line(line)
    return caught.value.reason


def test_a_line_is_a_document() -> None:
    line = json.dumps({"id": "d", "title": "t", "uri": "u", "text": "x\x00y", "more": [1]}).encode()
    assert parse_line(line) == Document("d", "t", "u", "x\ufffdy")
    assert parse_line(b'\xef\xbb\xbf{"id": 7, "text": "x", "title": null}') == Document("7", "", "", "x")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe", Refusal.NOT_UTF8),
        (b"{", Refusal.NOT_JSON),
        (b"[" * 100_000, Refusal.NOT_JSON),
        (b"[]", Refusal.NOT_JSON),
        (b'"text"', Refusal.NOT_JSON),
        (b'{"id": "d", "text": ["x"]}', Refusal.NOT_TEXT),
        (b'{"id": "d", "text": "\\ud800"}', Refusal.NOT_TEXT),
        (b'{"id": true, "text": "x"}', Refusal.NOT_TEXT),
        (b'{"text": "x"}', Refusal.NO_ID),
        (b'{"id": "%s", "text": "x"}' % (b"d" * 501), Refusal.NO_ID),
        (b'{"id": "d"}', Refusal.NO_TEXT),
        (b'{"id": "d", "text": " \\n"}', Refusal.NO_TEXT),
        (b"x" * ((16 << 20) + 1), Refusal.TOO_LONG),
    ],
)
def test_b3_b9_a_line_that_is_no_document_is_refused_with_its_reason(line: bytes, reason: Refusal) -> None:
    assert refusal(line) is reason


@given(st.binary(max_size=200))
def test_b1_any_bytes_are_a_document_or_refused(line: bytes) -> None:
    try:
        assert parse_line(line).text.strip()
    except LineRefused as err:
        assert err.reason in Refusal


def test_b9_too_many_refused_lines_stop_a_build_and_few_are_told() -> None:
    survey = Survey(lines=20, documents=19)
    survey.refuse(4, Refusal.NO_TEXT)
    survey.check()
    assert survey.words == "1 of 20 lines refused (NO_TEXT 1; the first is line 4)"
    survey.refuse(7, Refusal.NOT_JSON)
    survey.refuse(8, Refusal.NOT_JSON)
    with pytest.raises(PreconditionFailed, match="NOT_JSON 2, NO_TEXT 1") as caught:
        survey.check()
    assert caught.value.reason == "TOO_MANY_LINES_REFUSED"
    with pytest.raises(PreconditionFailed, match="it is empty") as caught:
        Survey().check()
    assert caught.value.reason == "NO_DOCUMENTS"


def test_vectors_get_length_one_or_are_refused() -> None:
    assert unit([3.0, 4.0]) == [0.6, 0.8]
    for bad in ([0.0, 0.0], [float("nan"), 1.0], [float("inf")], []):
        with pytest.raises(PreconditionFailed):
            unit(bad)
