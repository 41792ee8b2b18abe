"""Dirt of the kinds that real files have, put into real rows by a seed, with the truth about each line.

Rows come from a table with the columns `mr` and `ref` (the E2E set) that is read at run time. Nothing here is taken
from a particular dirty file: words, places and amounts are drawn, so that what is tuned to one of them does not pass.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.data_numbers import card, iban, ip_address, phone

INPUT, TARGET = "meaning_representation", "reference"
SHARES = {
    "exact_duplicate": 0.065,
    "near_duplicate": 0.04,
    "eval_contamination": 0.025,
    "html": 0.025,
    "pii": 0.025,
    "mojibake": 0.023,
    "low_quality": 0.017,
    "wrong_language": 0.017,
    "invalid": 0.015,
}
_ACCENTED = ("café", "naïve", "décor", "jalapeño", "“lovely”", "it’s", "crème brûlée", "Zürich", "– yes –", "£12")
_FOREIGN = (
    "Notre établissement sert des plats simples et chaleureux près de la gare.",
    "La terrasse est ouverte tous les soirs et les enfants sont les bienvenus.",
    "Unser Gasthaus liegt direkt am Markt und hat jeden Tag frischen Fisch.",
    "Die Preise sind niedrig, aber man muss am Wochenende lange warten.",
    "Este bar tranquilo ofrece comida casera a muy buen precio para todos.",
    "El servicio es amable y la cocina cierra tarde los fines de semana.",
    "Questo locale vicino al fiume propone piatti tipici a prezzi modesti.",
    "Il personale è gentile e la sala è adatta alle famiglie con bambini.",
    "Dit restaurant ligt aan het water en heeft een uitgebreide kaart.",
    "Este restaurante serve pratos regionais e fica perto da praia.",
)


class Dirt:
    """Makes one dirty file."""

    def __init__(self, table: Path, seed: int) -> None:
        """Reads the rows; a tenth of the inputs are the evaluation set."""
        self._random = random.Random(seed)
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(row["mr"], row["ref"]) for row in csv.DictReader(file) if row["mr"] and row["ref"]]
        rows = list(dict.fromkeys(rows))
        self._random.shuffle(rows)
        inputs = sorted({prompt for prompt, _ in rows})
        held_out = set(self._random.sample(inputs, max(1, len(inputs) // 10)))
        self.evaluation = [row for row in rows if row[0] in held_out]
        self._clean = [row for row in rows if row[0] not in held_out]
        self._kinds: dict[str, Callable[[tuple[str, str]], tuple[Any, Any, dict[str, Any]]]] = {
            "exact_duplicate": lambda row: (*row, {}),
            "near_duplicate": self._near,
            "eval_contamination": lambda _: (*self._random.choice(self.evaluation), {}),
            "html": self._html,
            "pii": self._pii,
            "mojibake": self._mojibake,
            "low_quality": self._junk,
            "wrong_language": lambda row: (row[0], self._random.choice(_FOREIGN), {}),
            "invalid": self._invalid,
        }

    def write(self, folder: Path) -> None:
        """Writes `records.jsonl`, `truth.jsonl` and `eval.jsonl`."""
        kinds, weights = list(SHARES), list(SHARES.values())
        dirty = sum(weights)
        clean = iter(self._clean)
        seen: list[tuple[str, str]] = []
        with (folder / "records.jsonl").open("w") as records, (folder / "truth.jsonl").open("w") as truths:
            for number, row in enumerate(clean, 1):
                prompt, answer, truth = (*row, {"kind": "clean"})
                if seen and self._random.random() < dirty:
                    kind = self._random.choices(kinds, weights)[0]
                    # Copies are of what is there; other dirt gets a row of its own, so that it is nobody's copy.
                    base = self._random.choice(seen) if kind in {"exact_duplicate", "near_duplicate"} else row
                    prompt, answer, more = self._kinds[kind](base)
                    truth = {"kind": kind, **more}
                else:
                    seen.append(row)
                records.write(json.dumps(_record(prompt, answer), ensure_ascii=False) + "\n")
                truths.write(json.dumps({"line": number, **truth}, ensure_ascii=False) + "\n")
        with (folder / "eval.jsonl").open("w") as file:
            file.writelines(json.dumps(_record(*row), ensure_ascii=False) + "\n" for row in self.evaluation)

    def _near(self, row: tuple[str, str]) -> tuple[Any, Any, dict[str, Any]]:
        text = row[1]
        change = self._random.randrange(5)
        if change == 0:
            text = f"  {'  '.join(text.split())}"
        elif change == 1:
            text = f"{text.rstrip('.')} {self._random.choice(('!!', '...', ' .', '!'))}"
        elif change == 2:
            text = text.upper()
        elif change == 3:
            text = text.lower().replace(",", " ,")
        else:
            text = f"{text}\n"
        return row[0], text, {}

    def _html(self, row: tuple[str, str]) -> tuple[Any, Any, dict[str, Any]]:
        text = row[1]
        forms: Sequence[str] = (
            "<p>{}</p>&nbsp;<br/><script>x()</script>",
            '<div class="a"><span style="color:red">{}</span></div>',
            "<html><head><style>p {{ margin: 0 }}</style></head><body><p>{}</p></body></html>",
            "<!-- draft --><b>{}</b><br>",
            '<a href="https://example.org/?a=1&amp;b=2">{}</a>',
        )
        return row[0], self._random.choice(forms).format(text), {"clean": text.strip()}

    def _pii(self, row: tuple[str, str]) -> tuple[Any, Any, dict[str, Any]]:
        kind, value = self._random.choice(
            [
                ("card", card(self._random)),
                ("iban", iban(self._random)),
                ("ip", ip_address(self._random)),
                ("phone", phone(self._random)),
                (
                    "email",
                    f"{self._random.choice(('jo', 'a.b', 'kim+x'))}{self._random.randrange(99)}@mail.example.com",
                ),
            ]
        )
        lead = self._random.choice(("Book with", "Ask for", "Contact:", "Paid by"))
        return row[0], f"{row[1]} {lead} {value}.", {"pii": kind, "value": value}

    def _mojibake(self, row: tuple[str, str]) -> tuple[Any, Any, dict[str, Any]]:
        words = " ".join(self._random.sample(_ACCENTED, 4))
        clean = f"{row[1]} {words}."
        # UTF-8 read as Windows-1252, by a program that puts a replacement mark where a byte is no character.
        return row[0], clean.encode().decode("cp1252", errors="replace"), {"clean": clean}

    def _junk(self, row: tuple[str, str]) -> tuple[Any, Any, dict[str, Any]]:
        some = self._random.choice
        word = some(row[1].split())
        forms = (
            some("!?#*=-~") * self._random.randint(30, 200),
            f"{word} " * self._random.randint(30, 80),
            some(("ok", "n/a", "x", "test", "-")),
            f"Lorem ipsum dolor sit amet, {word} elit.",
            "".join(some("$%&/()=?") for _ in range(80)),
        )
        return row[0], some(forms), {}

    def _invalid(self, row: tuple[str, str]) -> tuple[Any, Any, dict[str, Any]]:
        return row[0], self._random.choice(("", "   ", None, 17, 3.5, True, [], {"a": 1}, "\u200b", ...)), {}


def _record(prompt: Any, answer: Any) -> dict[str, Any]:
    return {INPUT: prompt} if answer is ... else {INPUT: prompt, TARGET: answer}
