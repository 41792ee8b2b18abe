"""Embedding models learn which answer belongs to which question; proved on questions and answers never seen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support import OPTIMIZATION, Job, Outcome, shard
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mainspring_modelfiles.gguf_file import GgufFile
from mainspring_training_worker import embedding

TOPICS, WORDS = 8, 6
STEPS = {**OPTIMIZATION, "learning_rate": 3e-3, "epochs": 8.0, "batch_rows": 16, "validate_every_steps": 12}


def words(topic: int, side: str) -> list[str]:
    """What a topic's questions, or its answers, are made of; they have no word in common."""
    return [f"{side}{topic}{letter}" for letter in "abcdef"[:WORDS]]


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Questions and answers, each a few words of its topic in a draw of its own."""
    made: list[dict[str, Any]] = []
    for number in range(start, start + count):
        draw = random.Random(number)
        question, answer = (" ".join(draw.sample(words(number % TOPICS, side), 4)) for side in ("ask", "tell"))
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made.append({"row_id": f"r{number}", "messages": messages})
    return made


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT whose vocabulary is the topics' words."""
    folder = tmp_path_factory.mktemp("bert")
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known += [word for topic in range(TOPICS) for side in ("ask", "tell") for word in words(topic, side)]
    vocabulary = {word: number for number, word in enumerate(known)}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]  # Untyped setter.
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]  # As above.
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]  # As above.
    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=32, **specials).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def learning(job: Job, tiny_bert: Path) -> dict[str, Any]:
    """What makes the job one of an embedding model."""
    job.spec["train"] = [shard(job.folder / "pairs.parquet", pairs(96))]
    job.spec["validation"] = [shard(job.folder / "held-out.parquet", pairs(32, 1000))]
    return {"method": "EMBEDDING", "adaptation": "FULL", "base_model": str(tiny_bert), "optimization": STEPS}


def found_right(folder: Path) -> float:
    """Share of unseen questions whose nearest answer, of one a topic, is of their topic."""
    model, tokenizer = embedding.load_model(folder).eval(), embedding.load_tokenizer(folder)
    unseen = pairs(TOPICS * 6, 5000)
    texts = [[row["messages"][at]["content"] for row in unseen] for at in (0, 1)]
    with torch.no_grad():
        asked, told = (
            embedding.vectors(model, [tuple(tokenizer(text)["input_ids"]) for text in side], tokenizer.pad_token_id)
            for side in texts
        )
    right = 0
    for number, question in enumerate(asked):
        first = number // TOPICS * TOPICS
        right += int((told[first : first + TOPICS] @ question).argmax()) == number % TOPICS
    return right / len(unseen)


def weights(outcome: Outcome) -> bytes:
    return (outcome.output / "hf" / "model.safetensors").read_bytes()


def test_i6_unseen_questions_find_their_answers_and_a_resumed_run_ends_with_the_same_weights(
    job: Job, tiny_bert: Path, learning: dict[str, Any]
) -> None:
    whole = job.run_here(**learning)
    assert whole.status == 0, whole.told[-1]
    (result,) = whole.of("result")
    assert {"gguf", "hf/config.json", "hf/tokenizer.json", "hf/model.safetensors"} <= result["files"].keys()
    assert "fidelity_probe.json" not in result["files"]
    assert result["best_validation_loss"] < result["initial_validation_loss"] - 0.3
    assert whole.of("metric")[-1]["measures"]["validation_retrieval_accuracy"] > 0
    assert found_right(tiny_bert) < 0.4
    assert found_right(whole.output / "hf") > 0.8
    assert GgufFile(whole.output / result["files"]["gguf"]).get("general.architecture", "") == "bert"
    again = job.run_here(**learning, resume_from=whole.output / "checkpoint-00000024.safetensors")
    assert again.of("metric")[0]["step"] > 24
    assert weights(again) == weights(whole)


def test_a_worse_answer_is_told_apart_and_the_same_answer_is_none(
    job: Job, tiny_bert: Path, learning: dict[str, Any]
) -> None:
    """With one answer for all, and a worse one each, only the worse ones are left to lose against."""
    for split, start in (("train", 0), ("validation", 1000)):
        rows = pairs(32, start)
        for row in rows:
            row["rejected"] = row["messages"][1]["content"]
            row["messages"][1]["content"] = "tell0a tell0b"
        job.spec[split] = [shard(job.folder / f"{split}-worse.parquet", rows)]
    (result,) = job.run_here(**learning).of("result")
    assert result["best_validation_loss"] < 0.5 * result["initial_validation_loss"]


@pytest.mark.parametrize(("long", "told"), [(1, []), (6, ["TRUNCATION"])])
def test_b9_texts_that_are_cut_are_told(job: Job, learning: dict[str, Any], long: int, told: list[str]) -> None:
    """A question of 40 words, of which the model reads 30."""
    rows = pairs(32)
    for row in rows[:long]:
        row["messages"][0]["content"] = " ".join(words(0, "ask")[number % WORDS] for number in range(40))
    optimization = {**STEPS, "max_steps": 1}
    changes: dict[str, Any] = {
        **learning,
        "train": [shard(job.folder / "long.parquet", rows)],
        "optimization": optimization,
    }
    outcome = job.run_here(**changes)
    assert outcome.status == 0, outcome.told[-1]
    assert [signal["name"] for signal in outcome.of("signal")] == told
    if told:
        assert "6 of 32 rows have a text of more than 32 tokens" in outcome.of("signal")[0]["message"]


def test_b9_texts_that_are_mostly_cut_are_refused(job: Job, learning: dict[str, Any]) -> None:
    """Also where not the base bounds them but the recipe, and the worse answer is what is too long."""
    rows = pairs(32)
    for row in rows[:20]:
        row["rejected"] = "tell0a tell0b tell0c tell0d tell0e tell0f tell1a"
    changes: dict[str, Any] = {**learning, "train": [shard(job.folder / "worse.parquet", rows)]}
    changes["optimization"] = {**STEPS, "max_sequence_tokens": 8}
    (failed,) = job.run_here(**changes).of("failed")
    assert failed["reason"] == "DATASET_MISMATCH"
    assert "20 of 32 rows have a text of more than 8 tokens" in failed["message"]


def test_b9_what_cannot_be_learned_from_or_is_no_embedding_model_is_refused(
    job: Job, tiny_model: Path, learning: dict[str, Any]
) -> None:
    alone: dict[str, Any] = {**learning, "train": [shard(job.folder / "one.parquet", pairs(1))]}
    assert job.run_here(**alone).of("failed")[0]["reason"] == "NO_TRAINING_ROWS"
    other: dict[str, Any] = {**learning, "base_model": str(tiny_model)}
    assert job.run_here(**other).of("failed")[0]["reason"] == "BASE_MODEL_UNUSABLE"
