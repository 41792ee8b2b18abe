"""Rows, a tokenizer, and runs of the real process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as parquet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mainspring_training_worker.fitting import rows_of
from mainspring_training_worker.progress import Progress
from mainspring_training_worker.run import train
from mainspring_training_worker.spec import Refused, Spec

CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEVICE = os.environ.get("MAINSPRING_TEST_DEVICE", "cpu")
"""Where runs of these tests compute; equal bytes are proved on a GPU by the same tests."""
OPTIMIZATION: dict[str, Any] = {
    "learning_rate": 3e-2,
    "epochs": 2.0,
    "batch_rows": 8,
    "max_sequence_tokens": 256,
    "warmup_percent": 5.0,
    "validate_every_steps": 2,
    "patience": 50,
    "max_steps": 0,
    "seed": 3,
    "packing": False,
}
LORA: dict[str, Any] = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "rank_stabilized": False, "weight_decomposed": False}


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]  # Untyped setter.
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]  # As above.
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the colour of the sky and the sea"] * 3, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>")
    made.chat_template = CHAT
    return made


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of different lengths whose answers can be learned."""
    made: list[dict[str, Any]] = []
    for number in range(start, start + count):
        question = (
            "colour? " + " ".join(["sky", "sea", "leaf"][number % 3] for _ in range(1 + number % 5)) + f" {number}"
        )
        answer = ["blue", "green as it is", "yellow in autumn"][number % 3]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        row_id = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
        made.append({"row_id": row_id, "messages": messages, "group": "", "source_index": 0, "line": number})
    return made


def shard(path: Path, content: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes a shard as data-ingest does; returns how a specification names it."""
    message = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    columns = [("row_id", pa.string()), ("messages", message)]
    judged = [("rejected", pa.string()), ("desirable", pa.bool_()), ("repeats", pa.int32())]
    columns += [(name, kind) for name, kind in judged if any(name in row for row in content)]
    schema = pa.schema(columns)
    parquet.write_table(pa.Table.from_pylist([{k: r.get(k) for k in schema.names} for r in content], schema), path)
    return {"path": str(path), "rows": len(content)}


@dataclass
class Outcome:
    """What a process told and how it ended."""

    status: int
    told: list[dict[str, Any]]
    output: Path
    errors: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.told if line["type"] == kind]

    @property
    def adapter_sha256(self) -> str:
        files = self.of("result")[0]["files"]
        return hashlib.sha256((self.output / files["adapter/adapter_model.safetensors"]).read_bytes()).hexdigest()

    @property
    def newest_checkpoint(self) -> Path:
        return self.output / self.of("checkpoint")[-1]["file"]


@dataclass
class Process:
    """A running worker."""

    popen: subprocess.Popen[bytes]
    lines: TextIO
    errors: TextIO
    output: Path
    told: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Reads on until a line fits."""
        for line in self.lines:
            self.told.append(json.loads(line))
            if condition(self.told[-1]):
                return self.told[-1]
        raise AssertionError(f"ended with {self.popen.wait()} before: {self.told[-3:]}")

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> Outcome:
        """Reads to the end."""
        self.told += [json.loads(line) for line in self.lines if line.endswith("\n")]
        status = self.popen.wait(timeout=60)
        self.errors.seek(0)
        return Outcome(status, self.told, self.output, self.errors.read())

    def close(self) -> None:
        """Leaves nothing behind."""
        self.popen.kill()
        self.popen.wait()
        self.lines.close()
        self.errors.close()


@dataclass
class Job:
    """A specification that can be run again and again."""

    folder: Path
    spec: dict[str, Any]
    started: list[Process] = field(default_factory=list[Process])

    def start(self, *, resume_from: Path | None = None, crash_at: str = "", **changes: Any) -> Process:
        output = self.folder / f"output-{len(self.started)}"
        output.mkdir()
        reading, writing = os.pipe()
        spec = {**self.spec, **changes, "output": str(output), "progress_fd": writing, "parent_pid": os.getpid()}
        spec["resume_from"] = str(resume_from) if resume_from else None
        path = self.folder / f"spec-{len(self.started)}.json"
        path.write_text(json.dumps(spec))
        errors = (self.folder / f"errors-{len(self.started)}").open("w+")
        popen = subprocess.Popen(
            [sys.executable, "-m", "mainspring_training_worker", str(path)],
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env={**os.environ, "MAINSPRING_CRASH_AT": crash_at},
        )
        os.close(writing)
        process = Process(popen, os.fdopen(reading), errors, output)
        self.started.append(process)
        return process

    def run(self, **options: Any) -> Outcome:
        return self.start(**options).end()

    def run_here(self, *, resume_from: Path | None = None, **changes: Any) -> Outcome:
        """The same without a process of its own, which saves the seconds that libraries take to load."""
        output = Path(tempfile.mkdtemp(dir=self.folder))
        spec = {**self.spec, **changes, "output": str(output), "parent_pid": os.getpid()}
        spec["resume_from"] = str(resume_from) if resume_from else None
        lines = output / "told"
        status = 0
        with lines.open("wb", buffering=0) as file:
            progress = Progress(file.fileno())
            path = output / "spec.json"
            path.write_text(json.dumps({**spec, "progress_fd": file.fileno()}))
            read = Spec.read(path)
            try:
                train(read, rows_of(read), progress, lambda: False)
            except Refused as refusal:
                progress.tell("failed", reason=refusal.reason, message=refusal.message)
                status = 3
        told = [json.loads(line) for line in lines.read_text().splitlines()]
        return Outcome(status, told, output, "")


def make_job(folder: Path, model: Path) -> Job:
    """A run of 12 steps on 48 rows."""
    spec = {
        "schema": "mainspring.training_spec.v1",
        "run": "projects/p/trainingRuns/r",
        "base_model_version": "projects/p/models/base/versions/1",
        "base_model": str(model),
        "method": "SUPERVISED",
        "train": [shard(folder / "train.parquet", rows(48))],
        "validation": [shard(folder / "validation.parquet", rows(12, 1000))],
        "adaptation": "LORA",
        "lora": LORA | {"dropout": 0.1},
        "optimization": OPTIMIZATION,
        "preference": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        "online": {
            "generations": 4,
            "max_answer_tokens": 8,
            "temperature": 1.0,
            "beta": 0.0,
            "rule": "",
            "judge_rubric": "",
        },
        "distillation": {
            "source": "LOGITS",
            "temperature": 1.0,
            "divergence": 0.5,
            "max_answer_tokens": 16,
            "on_policy_share": 0.0,
        },
        "pretraining": {"parameters": 200_000, "vocabulary": 320},
        "checks": {"canaries": [], "max_rollbacks": 2, "forgetting_budget_percent": 10.0},
        "helper": None,
        "parent": None,
        "replay_ratio": 1.0,
        "max_validation_rows": 100,
        "threads": 1,
        "precision": "fp32",
        "device": DEVICE,
        "micro_batch_tokens": 128,
    }
    return Job(folder, spec)
