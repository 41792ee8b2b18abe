"""The demo's material and report; the demo itself is run by `make demo`."""

import json
from pathlib import Path
from typing import Any

import pytest

from mainspring.registry.v1 import release_pb2
from mainspring_client.demo import task
from mainspring_client.demo.reference import reference_documents
from mainspring_client.demo.report import Report, print_report, turn_of
from mainspring_client.flywheel import Outcome, Result
from mainspring_pysource import read_entries
from mainspring_svckit.errors import InvalidInput

SOURCE = '''
def add(left: int, right: int) -> int:
    """Return the sum of two whole numbers.

    Both may be negative, and neither is changed by it.
    """
    return left + right


class Counter:
    """Counts how often each word was seen."""

    def take(self, word: str) -> None:
        """Take one more word, which may have been seen before."""
        self.words[word] = self.words.get(word, 0) + 1
        self.total += 1

    def short(self):
        """Too short."""


def marked():
    """Return `something` with markup in its first line."""
    return [number for number in range(100) if number % 7]
'''


def write_modules(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"module{number}.py").write_text(
            f'def work{number}(value):\n    """Return the value of work number {number} for a caller.\n\n'
            f'    It takes the value as it is, and adds {number} to it.\n    """\n    return value + {number}\n'
        )
    return folder


def test_an_entry_is_the_authors_sentence_and_what_a_reader_sees_without_it(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def broken(:\n")
    (tmp_path / "test_module.py").write_text(SOURCE)
    entries = {e.name: e for e in read_entries([tmp_path], most_per_file=10, most_per_package=10)}
    assert set(entries) == {"add", "Counter", "Counter.take"}
    assert entries["add"].summary == "Return the sum of two whole numbers."
    assert entries["add"].text.startswith("def add(left: int, right: int) -> int:\nBoth may be negative")
    assert "self.words" in entries["Counter.take"].text
    assert all(entry.summary not in entry.text for entry in entries.values())


def test_a_module_is_learned_from_or_held_back_and_the_same_every_time(tmp_path: Path) -> None:
    source = write_modules(tmp_path, 400)
    material = task.collect(source)
    learned, held_back = ({entry.module for entry in part} for part in (material.learned, material.held_back))
    assert not learned & held_back
    assert len(held_back) == task.HELD_BACK
    assert material == task.collect(source)


def test_a_folder_with_too_little_code_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="name a larger folder") as refused:
        task.collect(write_modules(tmp_path, 20))
    assert refused.value.reason == "SOURCE_TOO_SMALL"


def test_the_demos_flywheel_is_a_valid_configuration_with_the_prompt_that_is_asked() -> None:
    configuration = task.configuration("demo", "projects/demo/models/base/versions/1")
    assert len(configuration.sections) == 5
    recipe = configuration.sections["ingestion_recipe"]
    assert getattr(recipe, "prompt_template") == task.PROMPT + "{input}"  # noqa: B009 - messages by section are not typed.


def test_the_second_turn_learns_from_pairs_and_is_measured_on_the_first_one_s_questions() -> None:
    base, learned = "projects/demo/models/base/versions/1", "projects/demo/datasets/summaries/versions/1"
    sections: Any = task.preference_configuration("demo", base, learned).sections
    recipe = sections["tuning_recipe"]
    assert recipe.method == recipe.METHOD_DPO
    assert recipe.start_from == recipe.START_FROM_CHAMPION
    assert recipe.lora == getattr(task.configuration("demo", base).sections["tuning_recipe"], "lora")  # noqa: B009
    assert sections["evaluation_suite"].dataset_version == learned
    assert sections["ingestion_recipe"].columns.rejected_column == "rejected"
    assert sections["retraining_trigger"].ingestion_recipe == "projects/demo/ingestionRecipes/preferences"


def test_python_itself_brings_documents_for_retrieval() -> None:
    documents = [json.loads(line) for line in reference_documents()]
    assert len(documents) > 50
    assert all(document["text"] and document["id"] for document in documents)


def test_the_report_is_written_whole_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(source="somewhere")
    with report.timed("read code"):
        pass
    report.datasets = [
        {"version": "projects/p/datasets/d/versions/1", "in": 3, "kept": {"train": 2}, "refused": {"EMPTY": 1}}
    ]
    report.answers = {"count": 1, "callers": 1, "latency_p50_s": 0.5, "latency_p95_s": 0.5, "first_piece_s": 0.1}
    report.feedback = {"corrections": 1, "thumbs": 0, "note": "n"}
    report.retrieval = {"chunks": 1, "documents": 1, "question": "why?", "citations": ["With"]}
    report.write(tmp_path / "report.json")
    print_report(report)
    assert json.loads((tmp_path / "report.json").read_text())["source"] == "somewhere"
    assert "refused: 1 empty" in capsys.readouterr().out


def test_the_report_tells_what_the_gate_said_and_what_is_signed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rules = [
        release_pb2.RuleResult(rule="gain of rouge_l", passed=True, explanation="+0.2 [+0.1, +0.3], at least 0"),
        release_pb2.RuleResult(rule="guard of bleu", explanation="-3.0, may fall by 1"),
    ]
    decision = release_pb2.GateDecision(name="projects/p/models/m/gateDecisions/1", rules=rules)
    outcome = Outcome(Result.REFUSED, "guard of bleu", decision=decision)
    report = Report(turns=[turn_of(outcome)])
    report.answers = {"count": 1, "callers": 1, "latency_p50_s": 0.5, "latency_p95_s": 0.5, "first_piece_s": 0.1}
    report.feedback = {"corrections": 1, "thumbs": 0, "note": "n"}
    report.retrieval = {"chunks": 1, "documents": 1, "question": "why?", "citations": ["With"]}
    report.proof = {
        "model_version": "projects/p/models/m/versions/2",
        "manifest_sha256": "ab" * 32,
        "same_manifest": True,
        "key": "k" * 64,
        "files": 3,
        "dataset_root_sha256": "d" * 64,
        "base_manifest_sha256": "b" * 64,
        "recipe_sha256": "r" * 64,
        "decision": "projects/p/models/m/gateDecisions/1",
        "released_by": "ann",
        "history": {"entries": 4, "intact": True},
    }
    print_report(report)
    told = capsys.readouterr().out
    assert "gate ✓ gain of rouge_l" in told
    assert "+0.2 [+0.1, +0.3], at least 0" in told
    assert "gate ✗ guard of bleu" in told
    assert f"m/2 {'ab' * 32}, verified" in told
    assert "released by ann" in told
    assert "4 entries, intact" in told
    report.proof |= {"same_manifest": False, "history": {"entries": 4, "intact": False}}
    print_report(report)
    told = capsys.readouterr().out
    assert "verified" not in told
    assert "4 entries, BROKEN" in told
