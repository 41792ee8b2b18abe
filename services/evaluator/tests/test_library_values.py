"""Scores are, to the last printed digit, what the libraries' own command lines say."""

import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.application.ports import Measured
from mainspring_evaluator.domain.items import Answer, Item, Sample
from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_svckit.values import Message

# A file of the E2E challenge (columns mr, ref), whose inputs have several references each.
E2E = os.environ.get("MAINSPRING_E2E", "")
SUITE = EvaluationSuite("projects/p/evaluationSuites/s", "projects/p/models/m", (), bootstrap_resamples=100)


def systems() -> tuple[list[str], list[list[str]]]:
    """Answers and several references for each: of E2E where it is there, of made-up sentences where not."""
    if E2E:
        with Path(E2E).open(newline="") as file:
            rows = sorted((row["mr"], row["ref"]) for row in csv.DictReader(file))
        groups = [[ref for _, ref in group] for _, group in itertools.groupby(rows, key=lambda row: row[0])]
        groups = [group for group in groups if len(group) > 2]
        assert len(groups) >= 20
        return [group[-1] for group in groups], [group[:-1] for group in groups]
    places, foods = ["The Mill", "Blue Spice", "Zizzi's", "The Wrestlers"], ["Italian", "Thai", "cheap French"]
    answers, references = list[str](), list[list[str]]()
    for place, food in itertools.product(places, foods):
        answers.append(f"{place} serves {food} food, near the river.")
        references.append(
            [
                f"{place} is a {food} restaurant by the river.",
                f"Near the river there's {place}, serving {food} food.",
                f"Families eat {food} food at {place}!",
            ]
        )
    return answers, references


async def measured(scorers: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    samples = [
        Sample(Item((Message("user", str(index)),), tuple(of_item)), Answer(text, 0.1))
        for index, (text, of_item) in enumerate(zip(answers, references, strict=True))
    ]
    found = await ThreadScoring().measure(replace(SUITE, scorers=tuple(scorers)), samples, None)
    assert not found.failures
    return found


async def values(
    scorers: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    found = await measured(scorers, answers, references)
    return {result.scorer: result.candidate.value for result in found.results}


async def test_bleu_chrf_and_ter_are_sacrebleus_own_to_the_last_printed_digit(tmp_path: Path) -> None:
    answers, references = systems()
    (tmp_path / "answers.txt").write_text("".join(f"{answer}\n" for answer in answers))
    streams = list(itertools.zip_longest(*references))
    files: list[str] = []
    for number, stream in enumerate(streams):
        # Where an item has fewer references, its first stands once more: that changes neither what matches nor the
        # nearest length. TER's average length does change, so it is compared over references of one number below.
        lines = [text if text is not None else references[index][0] for index, text in enumerate(stream)]
        path = tmp_path / f"reference{number}.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        files.append(str(path))
    ours = await values(("bleu", "chrf"), answers, references)
    assert {name: f"{value:.12f}" for name, value in ours.items()} == _sacrebleu(tmp_path, files, ("bleu", "chrf"))
    same_number = [
        [text or of_item[0] for text in itertools.islice(itertools.cycle(of_item), 2)] for of_item in references
    ]
    for number in range(2):
        (tmp_path / f"two{number}.txt").write_text("".join(f"{of_item[number]}\n" for of_item in same_number))
    ours = await values(("ter",), answers, same_number)
    wanted = _sacrebleu(tmp_path, [str(tmp_path / "two0.txt"), str(tmp_path / "two1.txt")], ("ter",))
    assert {name: f"{value:.12f}" for name, value in ours.items()} == wanted


def _sacrebleu(folder: Path, references: Sequence[str], metrics: Sequence[str]) -> dict[str, str]:
    command = [sys.executable, "-m", "sacrebleu", *references, "-i", str(folder / "answers.txt"), "-w", "12"]
    found = json.loads(_run([*command, "--force", "-m", *metrics], folder))
    listed = found if isinstance(found, list) else [found]
    return {entry["name"].lower().removesuffix("2"): f"{entry['score']:.12f}" for entry in listed}


def _run(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


async def test_rouge_of_several_references_is_rouge_scores_own_to_the_last_printed_digit(tmp_path: Path) -> None:
    """Its command line knows one reference at a time: each is printed, and the best of an item is what counts."""
    answers, references = systems()
    pairs = [(place, answers[place], text) for place, of_item in enumerate(references) for text in of_item]
    assert len(pairs) > 2 * len(answers)
    (tmp_path / "wanted.txt").write_text("".join(f"{text}\n" for _, _, text in pairs))
    (tmp_path / "said.txt").write_text("".join(f"{answer}\n" for _, answer, _ in pairs))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "rouge_score.rouge",
        f"--target_filepattern={tmp_path}/wanted.txt",
        f"--prediction_filepattern={tmp_path}/said.txt",
        f"--output_filename={tmp_path}/scores.csv",
        "--use_stemmer",
        "--rouge_types=rouge1,rouge2,rougeL,rougeLsum",
        "--noaggregate",
    ]
    _run(command, tmp_path)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
    ours = await measured(tuple(names), answers, references)
    for place, scores in enumerate(ours.candidate_scores):
        printed = {
            name: [float(row[f"{theirs}-F"]) for (of, _, _), row in zip(pairs, rows, strict=True) if of == place]
            for name, theirs in names.items()
        }
        best = {name: max(found) for name, found in printed.items()}
        assert {name: f"{value:f}" for name, value in scores.items()} == {n: f"{v:f}" for n, v in best.items()}
    for result in ours.results:
        assert result.candidate.value == pytest.approx(fmean(scores[result.scorer] for scores in ours.candidate_scores))
