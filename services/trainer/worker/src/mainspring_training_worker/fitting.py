"""Which rows a run learns from, and whether its method can; known before any heavy library is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mainspring_training_worker.rows import Row, first_by_hash, new_with_replay, read_ids, read_rows, repeated
from mainspring_training_worker.spec import Refused, Spec

PAIRED = frozenset({"DPO", "IPO", "ORPO", "REWARD_MODEL"})
CORPUS = frozenset({"CONTINUED_PRETRAINING", "PRETRAINING"})
LEARNS_TEXT = CORPUS | {"SUPERVISED", "DISTILLATION"}
UNPAIRED = frozenset({"KTO"})
ONLINE = frozenset({"GRPO", "RLOO"})
MAKES_WHOLE = frozenset({"PRETRAINING", "EMBEDDING"})


def draws_answers(spec: Spec) -> bool:
    """Whether the model that learns answers by itself meanwhile, and learns from that."""
    distillation = spec.distillation
    on_policy = distillation.source == "LOGITS" and distillation.on_policy_share > 0
    return spec.method in ONLINE or (spec.method == "DISTILLATION" and on_policy)


@dataclass(frozen=True)
class Fitting:
    """The rows that a method can learn from, and how many it cannot."""

    rows: list[Row]
    unfit: int


@dataclass(frozen=True)
class Rows:
    """What a run works on.

    Attributes:
        train: Rows to learn.
        validation: Rows that steer.
        known: Ids of the rows that the parent has learned from.
        unfit: Rows of the train split that the method cannot learn from.
    """

    train: list[Row]
    validation: list[Row]
    known: frozenset[str]
    unfit: int


def rows_of(spec: Spec) -> Rows:
    """The rows of a run.

    Raises:
        Refused: NO_TRAINING_ROWS, DATASET_MISMATCH.
    """
    rows = read_rows(spec.train)
    if not rows:
        raise Refused("NO_TRAINING_ROWS", "the dataset version has no rows in its train split; ingest more")
    known: set[str] = set()
    if spec.parent is not None:
        known = read_ids(spec.parent.known)
        rows = new_with_replay(rows, known, spec.replay_ratio, spec.optimization.seed)
        if not rows:
            message = "the model to begin with has learned from every row already; ingest new ones"
            raise Refused("NO_TRAINING_ROWS", message)
    fit = fitting(spec.method, rows, "train")
    held_out = fitting(spec.method, read_rows(spec.validation), "validation").rows
    return Rows(
        repeated(fit.rows), first_by_hash(held_out, spec.max_validation_rows, "validation"), frozenset(known), fit.unfit
    )


def fitting(method: str, rows: Sequence[Row], split: str) -> Fitting:
    """The rows of a split that fit a method.

    Raises:
        Refused: DATASET_MISMATCH, none does; the message says what the method needs.
    """
    chosen: Callable[[Row], list[Row]] = _single
    needs = "rows with a prompt and an answer that nobody has judged bad"
    if method in PAIRED:
        chosen, needs = _pair, "rows with `rejected`, a worse answer to the same prompt"
    elif method in CORPUS:
        chosen, needs = _text, "rows that nobody has judged bad"
    elif method in UNPAIRED:
        chosen, needs = _thumbs, "rows with `desirable`, or with `rejected`"
    fit = [chosen(row) for row in rows]
    found = [row for some in fit for row in some]
    if rows and not found:
        message = f"METHOD_{method} learns from {needs}, and none of the {len(rows)} {split} rows is one;"
        raise Refused("DATASET_MISMATCH", f"{message} choose another method or import such rows")
    if method in UNPAIRED and split == "train" and len({row.desirable for row in found}) == 1:
        message = f"METHOD_{method} learns from good and bad answers, and all {len(found)} rows are of one kind;"
        raise Refused("DATASET_MISMATCH", f"{message} import the other kind as well")
    return Fitting(found, sum(not some for some in fit))


def _single(row: Row) -> list[Row]:
    return [row] if row.desirable is not False and len(row.messages) > 1 else []


def _text(row: Row) -> list[Row]:
    return [row] if row.desirable is not False else []


def _pair(row: Row) -> list[Row]:
    return [row] if row.rejected is not None and len(row.messages) > 1 else []


def _thumbs(row: Row) -> list[Row]:
    if len(row.messages) < 2:
        return []
    if row.rejected is None:
        return [row] if row.desirable is not None else []
    worse = (*row.messages[:-1], {"role": "assistant", "content": row.rejected})
    return [
        replace(row, rejected=None, desirable=True),
        replace(row, row_id=f"{row.row_id}-rejected", messages=worse, rejected=None, desirable=False),
    ]
