"""The evaluator's metric values against sacrebleu's and rouge-score's own command lines, to the last digit that these
print, on E2E with several references.

Each input of the table is answered by the last of its references, and the others are what is right. rouge-score's
command line knows one reference at a time, so it is asked for each, the best of an item is taken, as its `score_multi`
does, and each item is compared by itself. TER divides by the mean length of the references, and sacrebleu's files have
as many for each item; so two are taken there.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figures import Bar, Figure
from mainspring_evaluator.adapters.scoring import ThreadScoring
from mainspring_evaluator.application.ports import Measured
from mainspring_evaluator.domain.items import Answer, Item, Sample
from mainspring_evaluator.domain.suites import EvaluationSuite
from mainspring_svckit.values import Message

_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
_SUITE, _MODEL = "projects/p/evaluationSuites/s", "projects/p/models/m"


async def compare(table: Path, folder: Path) -> list[Figure]:
    """How many values are not those of the command lines.

    Args:
        table: CSV file with the columns `mr` and `ref`.
        folder: Where files for the command lines may lie.
    """
    answers, references = _answered(table)
    overlap = await _sacrebleu(answers, references, folder)
    rouge = await _rouge(answers, references, folder)
    return [
        Figure(f"{what}: values unlike their command line's, {len(answers)} inputs of E2E", "", unlike, bar=Bar(0))
        for what, unlike in (("BLEU, chrF, TER", overlap), ("ROUGE-1/2/L/Lsum of each item", rouge))
    ]


def _answered(table: Path) -> tuple[list[str], list[list[str]]]:
    with table.open(newline="", encoding="utf-8") as file:
        rows = sorted((row["mr"], row["ref"]) for row in csv.DictReader(file))
    groups = [[ref for _, ref in group] for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    several = [group for group in groups if len(group) > 2]
    if not several:
        raise ValueError(f"{table} has no input with three references")
    return [group[-1] for group in several], [group[:-1] for group in several]


async def _measure(scorers: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    samples = [
        Sample(Item((Message("user", str(index)),), tuple(of_item)), Answer(text, 0.1))
        for index, (text, of_item) in enumerate(zip(answers, references, strict=True))
    ]
    suite = EvaluationSuite(_SUITE, _MODEL, tuple(scorers), bootstrap_resamples=100)
    return await ThreadScoring().measure(suite, samples, None)


async def _sacrebleu(answers: Sequence[str], references: Sequence[Sequence[str]], folder: Path) -> int:
    """Of three scores, how many are not those of sacrebleu's command line."""
    most = max(map(len, references))
    # Its files have as many references for each item; the first once more changes neither BLEU nor chrF.
    filled = [[*of_item, *[of_item[0]] * (most - len(of_item))] for of_item in references]
    two = [list(of_item[:2]) for of_item in references]
    unlike = 0
    for scorers, measured, printed in (
        (("bleu", "chrf"), references, filled),
        (("ter",), two, two),
    ):
        ours = {
            result.scorer: f"{result.candidate.value:.12f}"
            for result in (await _measure(scorers, answers, measured)).results
        }
        theirs = await _sacrebleu_says(scorers, answers, printed, folder)
        unlike += sum(ours.get(name) != theirs[name] for name in scorers)
    return unlike


async def _sacrebleu_says(
    scorers: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]], folder: Path
) -> Mapping[str, str]:
    said = _lines(folder / "said.txt", answers)
    files = [
        _lines(folder / f"wanted{number}.txt", [of_item[number] for of_item in references])
        for number in range(len(references[0]))
    ]
    command = ["-m", "sacrebleu", *files, "-i", said, "-w", "12", "--force", "-m", *scorers]
    found = json.loads(await _run(command, folder))
    listed = found if isinstance(found, list) else [found]
    return {entry["name"].lower().removesuffix("2"): f"{entry['score']:.12f}" for entry in listed}


async def _rouge(answers: Sequence[str], references: Sequence[Sequence[str]], folder: Path) -> int:
    """Of four scores of each item, how many are not the best that rouge-score's command line gives its references."""
    measured = await _measure(tuple(_ROUGE), answers, references)
    pairs = [(place, answers[place], text) for place, of_item in enumerate(references) for text in of_item]
    command = [
        *("-W", "ignore", "-m", "rouge_score.rouge", "--use_stemmer", "--noaggregate"),
        f"--target_filepattern={_lines(folder / 'wanted.txt', [text for _, _, text in pairs])}",
        f"--prediction_filepattern={_lines(folder / 'said.txt', [answer for _, answer, _ in pairs])}",
        f"--output_filename={folder / 'scores.csv'}",
        f"--rouge_types={','.join(_ROUGE.values())}",
    ]
    await _run(command, folder)
    with (folder / "scores.csv").open(newline="") as file:
        printed = list(csv.DictReader(file))
    best = [dict.fromkeys(_ROUGE, 0.0) for _ in answers]
    for (place, _, _), row in zip(pairs, printed, strict=True):
        for name, theirs in _ROUGE.items():
            best[place][name] = max(best[place][name], float(row[f"{theirs}-F"]))
    return sum(
        f"{ours[name]:f}" != f"{theirs[name]:f}"
        for ours, theirs in zip(measured.candidate_scores, best, strict=True)
        for name in _ROUGE
    )


def _lines(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


async def _run(command: Sequence[str], folder: Path) -> str:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, *command], check=True, capture_output=True, text=True, cwd=folder
    )
    return done.stdout
