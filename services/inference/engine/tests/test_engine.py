"""What needs no llama.cpp: sampling, the model's description, putting text together, threads, and reading what
llama.cpp says. The engine itself is tested through Triton, in services/inference/tests/test_triton.py.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring_engine import llama_cpp
from mainspring_engine.engine import EngineError, FinishReason, Generated, Reason, Sampling
from mainspring_engine.sampling import LOGPROBS_MAX, MAX_TOKENS_MAX, parse_sampling
from mainspring_engine.spec import Kind, ModelSpec
from mainspring_engine.streams import Coalescer
from mainspring_engine.workers import Workers

SPEC = {"kind": "generate", "gguf": "/m.gguf", "adapter": "", "context_tokens": 512, "slots": 8, "threads": 2}


def refusal(text: str) -> EngineError:
    with pytest.raises(EngineError) as caught:
        parse_sampling(text)
    assert caught.value.reason is Reason.INVALID_SAMPLING
    assert str(caught.value).startswith("INVALID_SAMPLING: ")
    return caught.value


def test_no_sampling_parameters_and_nulls_mean_vllms_defaults() -> None:
    assert parse_sampling("") == parse_sampling("{}") == Sampling()
    assert parse_sampling('{"temperature": null, "stop": null, "seed": null}') == Sampling()


def test_sampling_parameters_have_vllms_names() -> None:
    wish = {"temperature": 0, "top_p": 0.5, "max_tokens": 7, "seed": 3, "stop": ["a", "b"], "logprobs": 2}
    assert parse_sampling(json.dumps(wish)) == Sampling(0.0, 0.5, 7, 3, ("a", "b"), 2)
    assert parse_sampling('{"stop": "one", "ignore_eos": true}') == Sampling(stop=("one",), ignore_eos=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"temperature": -0.1}', "between 0 and 2"),
        ('{"temperature": 2.1}', "between 0 and 2"),
        ('{"temperature": NaN}', "temperature is not a number"),
        ('{"temperature": 1e400}', "temperature is not a number"),
        ('{"temperature": "hot"}', "temperature is not a number"),
        ('{"temperature": true}', "temperature is not a number"),
        ('{"top_p": 0}', "above 0"),
        ('{"top_p": 1.5}', "between 0 and 1"),
        ('{"max_tokens": 0}', "between 1"),
        ('{"max_tokens": -1}', "between 1"),
        ('{"max_tokens": 1000000000}', str(MAX_TOKENS_MAX)),
        ('{"max_tokens": 1.5}', "whole number"),
        ('{"seed": -1}', "between 0"),
        ('{"seed": 4294967296}', "between 0"),
        ('{"logprobs": 1001}', str(LOGPROBS_MAX)),
        ('{"stop": [""]}', "texts of 1 to"),
        ('{"stop": [1]}', "texts of 1 to"),
        ('{"stop": {}}', "list of at most"),
        (json.dumps({"stop": ["x"] * 10_000}), "list of at most"),
        (json.dumps({"stop": "x" * 1_001}), "texts of 1 to"),
        ('{"n": 1000000000}', "'n' is unknown; there are temperature"),
        ('{"logit_bias": {"1": 1000000}}', "'logit_bias' is unknown"),
    ],
)
def test_b4_a_sampling_parameter_out_of_its_range_is_refused_by_name(text: str, names: str) -> None:
    assert names in refusal(text).message


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", "1", "[" * 30_000, '{"seed": 1', '{"temperature": 1' + "0" * 70_000]
)
def test_b3_what_is_not_a_json_object_is_refused(text: str) -> None:
    refusal(text)


@given(
    st.text(max_size=200) | st.recursive(st.none() | st.floats() | st.text(), st.lists, max_leaves=5).map(json.dumps)
)
def test_b1_any_text_is_sampling_or_refused(text: str) -> None:
    try:
        made = parse_sampling(text)
    except EngineError as err:
        assert err.reason is Reason.INVALID_SAMPLING
    else:
        assert 0 <= made.temperature <= 2


def test_a_models_description_is_read_back() -> None:
    assert ModelSpec.parse(json.dumps(SPEC)) == ModelSpec(Kind.GENERATE, "/m.gguf", "", 512, 8, 2)


@pytest.mark.parametrize("change", [{"kind": "draw"}, {"slots": 0}, {"context_tokens": -1}, {"threads": "many"}])
def test_a_description_without_sense_is_no_model(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ModelSpec.parse(json.dumps({**SPEC, **change}))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def coalesced(pieces: Sequence[str], *, step_s: float, stream: bool = True) -> tuple[list[str], str]:
    sent: list[str] = []
    clock = Clock()
    coalescer = Coalescer(sent.append, stream=stream, interval_s=1.0, clock=clock)
    for piece in pieces:
        coalescer.add(piece)
        clock.now += step_s
    return sent, coalescer.take_rest()


def test_the_first_piece_goes_at_once_and_what_comes_soon_after_travels_together() -> None:
    assert coalesced(list("abcdef"), step_s=0.4) == (["a", "bcd"], "ef")


def test_pieces_that_come_slowly_go_one_by_one() -> None:
    assert coalesced(["a", "", "b"], step_s=1.0) == (["a", "b"], "")


def test_without_streaming_all_text_is_in_the_last_response() -> None:
    assert coalesced(list("abc"), step_s=2.0, stream=False) == ([], "abc")


@given(st.lists(st.text(max_size=5)), st.floats(0, 3), st.booleans())
def test_i12_no_text_is_lost_doubled_or_moved(pieces: list[str], step_s: float, stream: bool) -> None:
    sent, rest = coalesced(pieces, step_s=step_s, stream=stream)
    assert "".join([*sent, rest]) == "".join(pieces)
    assert all(sent)


def test_i10_jobs_above_the_limit_are_refused_and_the_others_done_before_the_end() -> None:
    release, started, done = threading.Event(), threading.Event(), list[int]()

    def blocking() -> None:
        started.set()
        release.wait(10)

    workers = Workers(1, 2, "test")
    assert workers.submit(blocking)
    assert started.wait(10)
    assert [workers.submit(lambda n=n: done.append(n)) for n in range(3)] == [True, True, False]
    release.set()
    workers.close(timeout_s=10)
    assert done == [0, 1]


def said(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"text": "", "finish_reason": None, **choice}]}


def watched(
    messages: Sequence[dict[str, Any]], *, cancelled: bool = False
) -> tuple[Generated | EngineError, list[str], list[bool]]:
    texts: list[str] = []
    watch = llama_cpp._Watch(texts.append, lambda: cancelled)  # pyright: ignore[reportPrivateUsage] - what llama.cpp calls.
    stops = [watch.take(message) for message in messages]
    try:
        return watch.result(()), texts, stops
    except EngineError as err:
        return err, texts, stops


END = {**said(text="!", finish_reason="stop"), "usage": {"prompt_tokens": 4, "completion_tokens": 9}}


def test_what_llama_cpp_counts_in_the_end_is_what_counts() -> None:
    result, texts, stops = watched([{**said(), "prompt_progress": {"total": 4}}, said(text="a"), said(text=""), END])
    assert result == Generated(FinishReason.STOP, 4, 9)
    assert (texts, stops) == (["a", "!"], [False] * 4)


def test_f18_a_cancelled_generation_is_stopped_at_the_first_look_and_counts_what_was_read() -> None:
    result, _, stops = watched([{**said(), "prompt_progress": {"total": 4}}], cancelled=True)
    assert stops == [True]
    assert result == Generated(FinishReason.CANCELLED, 4, 0)


def test_i12_a_generation_that_ends_without_a_reason_is_a_failure() -> None:
    result, texts, _ = watched([said(text="a")])
    assert isinstance(result, EngineError)
    assert (result.reason, texts) == (Reason.ENGINE_FAILED, ["a"])


@pytest.mark.parametrize(
    ("error", "reason", "names"),
    [
        (
            {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8, "code": 400, "message": "m"},
            Reason.CONTEXT_LENGTH_EXCEEDED,
            "the prompt has 9 tokens, the model takes 8",
        ),
        ({"code": 400, "message": "no"}, Reason.INVALID_PROMPT, "no"),
        ({"code": 500, "message": "failed"}, Reason.ENGINE_FAILED, "failed"),
        ({}, Reason.ENGINE_FAILED, "no message"),
    ],
)
def test_what_llama_cpp_refuses_ends_the_generation_with_its_reason(
    error: dict[str, Any], reason: Reason, names: str
) -> None:
    result, _, stops = watched([{"error": error}])
    assert stops == [True]
    assert isinstance(result, EngineError)
    assert result.reason is reason
    assert names in result.message


def test_an_exception_of_ours_does_not_pass_through_c_plus_plus() -> None:
    def broken(_: str) -> None:
        raise BrokenPipeError

    watch = llama_cpp._Watch(broken, lambda: False)  # pyright: ignore[reportPrivateUsage] - what llama.cpp calls.
    assert watch.take(said(text="a")) is True
    with pytest.raises(BrokenPipeError):
        watch.result(())


def test_the_largest_seed_is_not_taken_for_a_wish_for_a_random_one() -> None:
    request = llama_cpp._request(Sampling(seed=(1 << 32) - 1))  # pyright: ignore[reportPrivateUsage] - what is sent to llama.cpp.
    assert request["seed"] == 0
    assert "seed" not in llama_cpp._request(Sampling())  # pyright: ignore[reportPrivateUsage] - what is sent to llama.cpp.


def test_a_file_that_is_not_there_is_named_before_llama_cpp_is_asked() -> None:
    with pytest.raises(EngineError, match=r"ENGINE_FAILED: /m.gguf does not exist; fetch"):
        llama_cpp.LlamaCppEngine(ModelSpec.parse(json.dumps(SPEC)))
