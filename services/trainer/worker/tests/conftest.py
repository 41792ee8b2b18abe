"""A tiny random model and runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import Job, Outcome, make_job, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tokens = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path) -> Iterator[Job]:
    """A run to be disturbed; its processes end with the test."""
    made = make_job(tmp_path, tiny_model)
    yield made
    for process in made.started:
        process.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Outcome:
    """What the run ends with when nothing happens."""
    made = make_job(tmp_path_factory.mktemp("undisturbed"), tiny_model)
    process = made.start()
    try:
        outcome = process.end()
    finally:
        process.close()
    assert outcome.status == 0, outcome.errors
    return outcome
