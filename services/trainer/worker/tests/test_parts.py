"""The parts that decide what a run does, without a process."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import support
import torch
from peft.tuners.lora.layer import Linear
from support import make_tokenizer, rows, shard
from transformers import AutoModelForCausalLM

from mainspring_training_worker.batches import Example, Plan, learning_rate, micro_batches
from mainspring_training_worker.checkpoint import Checkpoint, State
from mainspring_training_worker.device import CPU, random_states
from mainspring_training_worker.encoding import encode, encode_all
from mainspring_training_worker.layers import PLAIN_ATTENTION, Adapted
from mainspring_training_worker.model import Tunable, choose_precision, load_base, load_tokenizer
from mainspring_training_worker.rows import Row, first_by_hash, new_with_replay, read_ids, read_rows, repeated
from mainspring_training_worker.spec import Lora, Refused, Shard, Spec

LORA = Lora(**support.LORA)


def example(row_id: str, length: int, answer_start: int = 1) -> Example:
    return Example(row_id, tuple(range(2, 2 + length)), answer_start)


def row(number: int) -> Row:
    return Row(
        f"r{number}", ({"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"})
    )


def plan(examples: list[Example], **changes: float) -> Plan:
    given = {"epochs": 1.0, "batch_rows": 4, "max_steps": 0, "validate_every_steps": 0, "seed": 0, **changes}
    return Plan.make(examples, **given)  # type: ignore[arg-type]  # Whole numbers where they are wanted.


def test_micro_batches_hold_every_example_once_and_stay_below_the_limit() -> None:
    examples = [example(f"r{n}", 3 + n % 17) for n in range(40)]
    groups = list(micro_batches(examples, 32))
    assert sorted(e.row_id for group in groups for e in group) == sorted(e.row_id for e in examples)
    assert all(len(group) * max(len(e.tokens) for e in group) <= 32 for group in groups)
    padded = sum(len(group) * max(len(e.tokens) for e in group) for group in groups)
    assert padded < 1.2 * sum(len(e.tokens) for e in examples)
    assert [len(group) for group in micro_batches([example("long", 100)], 32)] == [1]


def test_a_plan_takes_each_row_once_an_epoch_in_another_order() -> None:
    examples = [example(f"r{n}", 5) for n in range(10)]
    made = plan(examples, epochs=2.5)
    ids = [e.row_id for e in made.order]
    assert sorted(ids[:10]) == sorted(ids[10:20]) == sorted(e.row_id for e in examples)
    assert ids[:10] != ids[10:20]
    assert (len(ids), made.steps, made.validate_every_steps) == (25, 7, 1)
    assert plan(list(reversed(examples)), epochs=2.5) == made
    assert plan(examples, epochs=2.5, seed=1).order != made.order
    assert plan(examples, max_steps=2).steps == 2


def test_a_plan_validates_first_on_schedule_and_at_the_end() -> None:
    made = plan([example(f"r{n}", 5) for n in range(40)], validate_every_steps=4)
    assert [step for step in range(made.steps + 1) if made.validates_at(step)] == [0, 4, 8, 10]


def test_the_learning_rate_rises_in_a_line_and_falls_towards_nought() -> None:
    rates = [learning_rate(step, 100, peak=1.0, warmup_percent=10) for step in range(100)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert learning_rate(0, 1, peak=1.0, warmup_percent=0) == 1.0


def test_replay_adds_known_rows_by_a_stable_choice() -> None:
    all_rows = [row(n) for n in range(30)]
    known = {f"r{n}" for n in range(20)}
    chosen = new_with_replay(all_rows, known, 0.5, seed=1)
    assert {r.row_id for r in chosen[:10]} == {f"r{n}" for n in range(20, 30)}
    assert {r.row_id for r in chosen[10:]} < known
    assert len(chosen) == 15
    again = new_with_replay(list(reversed(all_rows)), known, 0.5, seed=1)
    assert {r.row_id for r in again} == {r.row_id for r in chosen}
    assert new_with_replay(all_rows, {r.row_id for r in all_rows}, 1.0, seed=1) == []
    assert first_by_hash(all_rows, 3, "x") == first_by_hash(list(reversed(all_rows)), 3, "x")


def test_b9_shards_are_read_as_written_or_refused(tmp_path: Path) -> None:
    written = rows(5)
    good = shard(tmp_path / "good.parquet", written)
    read = read_rows([Shard(Path(good["path"]), 5)])
    assert [r.row_id for r in read] == [r["row_id"] for r in written]
    assert list(read[0].messages) == written[0]["messages"]
    assert read_ids([Shard(Path(good["path"]), 5)]) == {r["row_id"] for r in written}
    (tmp_path / "noise").write_bytes(b"not parquet")
    unanswered = [{**written[0], "messages": written[0]["messages"][:1]}]
    bad = shard(tmp_path / "bad.parquet", unanswered)
    for path, count in ((tmp_path / "noise", 1), (Path(good["path"]), 6), (Path(bad["path"]), 1), (tmp_path / "no", 1)):
        with pytest.raises(Refused) as caught:
            read_rows([Shard(path, count)])
        assert caught.value.reason == "DATASET_MISMATCH"


def test_a_row_is_seen_as_often_as_its_version_says_and_can_be_traced(tmp_path: Path) -> None:
    written = [{**row, "repeats": 1 + number % 3} for number, row in enumerate(rows(4))]
    seen = repeated(read_rows([Shard(Path(shard(tmp_path / "weighed.parquet", written)["path"]), 4)]))
    assert [row.row_id.partition("+")[0] for row in seen] == [r["row_id"] for r in written for _ in range(r["repeats"])]
    assert len({row.row_id for row in seen}) == len(seen) == 1 + 2 + 3 + 1
    plain = read_rows([Shard(Path(shard(tmp_path / "plain.parquet", rows(4))["path"]), 4)])
    assert repeated(plain) == plain


def test_only_the_last_answer_and_its_end_token_are_learned() -> None:
    tokens = make_tokenizer()
    turns = [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "sky?"), ("assistant", " blue\n")]
    made = encode(tokens, Row("r", tuple({"role": role, "content": text} for role, text in turns)))
    learned = tokens.decode(list(made.tokens[made.answer_start :]))
    assert learned == " blue\n<|im_end|>"
    prompt = str(tokens.decode(list(made.tokens[: made.answer_start])))
    assert prompt.endswith("sky?<|im_end|>\n<|im_start|>assistant\n")
    assert "hello" in prompt
    kept, too_long = encode_all(tokens, [row(1), row(2)], max_tokens=3, corpus=False)
    assert (kept, too_long) == ([], 2)


def test_a_template_that_shows_the_answer_elsewhere_is_refused() -> None:
    tokens = make_tokenizer()
    tokens.chat_template = "{{ messages | length }}{% if add_generation_prompt %}go{% endif %}"
    with pytest.raises(Refused) as caught:
        encode(tokens, row(1))
    assert caught.value.reason == "CHAT_TEMPLATE_UNUSABLE"


def test_the_loss_is_that_of_each_answer_alone(tiny_model: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = Tunable.adapted(load_base(tiny_model, "fp32"), LORA, None, seed=0)
    model.module.eval()
    examples = [example("a", 30, 20), example("b", 12, 3), example("c", 7, 5)]
    expected = 0.0
    with torch.no_grad():
        for one in examples:
            log_probabilities = torch.log_softmax(reference(input_ids=torch.tensor([one.tokens])).logits[0], dim=-1)
            places = range(one.answer_start, len(one.tokens))
            expected -= sum(log_probabilities[at - 1, one.tokens[at]].item() for at in places)
        assert model.loss_sum(examples, padding=1).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_quick_layers_have_the_values_and_gradients_of_the_usual_ones(tiny_model: Path, precision: str) -> None:
    quick = Tunable.adapted(load_base(tiny_model, precision, PLAIN_ATTENTION), LORA, None, seed=0)
    usual = Tunable.adapted(load_base(tiny_model, precision), LORA, None, seed=0)
    for layer in usual.module.modules():
        if isinstance(layer, Adapted):
            layer.__class__ = Linear  # pyright: ignore[reportAttributeAccessIssue] - PEFT's forward.
    examples = [example("a", 30, 20), example("b", 12, 3)]
    steps = torch.Generator().manual_seed(1)
    for tensor in quick.weights().values():
        # A fresh adapter's second matrix is zero, which would hide the first one's gradients.
        tensor.copy_(torch.randn(tensor.shape, generator=steps) * 0.1)
    usual.load(quick.weights())
    losses = [model.loss_sum(examples, padding=1) for model in (quick, usual)]
    tolerance = 1e-4 if precision == "fp32" else 0.03
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=tolerance)
    for loss in losses:
        loss.backward()
    for name, parameter in quick.parameters.items():
        expected, got = usual.parameters[name].grad, parameter.grad
        assert expected is not None
        assert got is not None
        assert got.dtype == torch.float32
        assert (got - expected).norm() <= 2 * tolerance * expected.norm(), name


def test_long_rows_go_to_the_kernel_that_holds_no_matrix(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Tunable.adapted(load_base(tiny_model, "fp32", PLAIN_ATTENTION), LORA, None, seed=0)
    examples = [example("a", 30, 20)]
    plain = model.loss_sum(examples, padding=1).item()
    monkeypatch.setattr("mainspring_training_worker.layers._PLAIN_TOKENS", 8)
    assert model.loss_sum(examples, padding=1).item() == pytest.approx(plain, rel=1e-5)


def test_bf16_keeps_the_adapter_in_fp32_and_comes_close(tiny_model: Path) -> None:
    exact, coarse = (
        Tunable.adapted(load_base(tiny_model, precision), LORA, None, seed=0) for precision in ("fp32", "bf16")
    )
    assert {p.dtype for p in coarse.parameters.values()} == {torch.float32}
    losses = [model.loss_sum([example("a", 30, 5)], padding=1).item() for model in (exact, coarse)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert choose_precision("auto") in {"fp32", "bf16"}
    assert choose_precision("fp32") == "fp32"


def test_an_adapter_of_another_shape_is_refused(tiny_model: Path) -> None:
    other = Tunable.adapted(load_base(tiny_model, "fp32"), replace(LORA, rank=8), None, seed=0)
    model = Tunable.adapted(load_base(tiny_model, "fp32"), LORA, None, seed=0)
    with pytest.raises(Refused) as caught:
        model.load(other.weights())
    assert caught.value.reason == "PARENT_UNUSABLE"


def test_b7_a_base_of_pickles_or_without_a_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Refused) as caught:
        load_base(tmp_path, "fp32")
    assert caught.value.reason == "BASE_MODEL_UNUSABLE"
    with pytest.raises(Refused) as caught:
        load_tokenizer(tmp_path)
    assert "chat template" in caught.value.message


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    adapter, best = {"a": torch.randn(3, 2)}, {"a": torch.randn(3, 2)}
    state = State(step=3, best_step=2, best_validation_loss=1.5, window_loss=math.pi, curve=[{"step": 2}])
    moments = {"first_moment/x": torch.randn(2), "second_moment/x": torch.rand(2)}
    path = tmp_path / "c.safetensors"
    Checkpoint("r", "digest", "bf16", state, adapter, best, moments, random_states(CPU)).write(path)
    read = Checkpoint.read(path)
    assert read is not None
    assert asdict(read.state) == asdict(state)
    assert (read.run, read.plan_sha256, read.precision) == ("r", "digest", "bf16")
    assert torch.equal(read.adapter["a"], adapter["a"])
    assert torch.equal(read.best["a"], best["a"])
    assert torch.equal(read.moments["first_moment/x"], moments["first_moment/x"])
    assert read.rng.keys() == {"rng"}
    assert torch.equal(read.rng["rng"], torch.get_rng_state())
    for junk in (b"", b"\xff" * 64, path.read_bytes()[:200]):
        path.write_bytes(junk)
        assert Checkpoint.read(path) is None


def test_a_specification_of_another_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"schema": "other"}')
    with pytest.raises(ValueError, match="start the worker of the same release"):
        Spec.read(path)
