"""Items of tasks of lm-evaluation-harness: YAML with its data beside it.

What a task asks for and is not done here is refused by its name, lest other figures come out than its author means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring_evaluator.adapters.few_shot import CONFIG, SAMPLERS, Examples
from mainspring_evaluator.adapters.task_fields import by_template, choices_of, rendered, target_of
from mainspring_evaluator.adapters.task_rows import ROWS, SAID_CHARACTERS, Row, at, item_of, printable, read_text
from mainspring_evaluator.domain.items import Item
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Message

_MAX_EXAMPLES = 400
# What is read of a task, and what changes neither what is asked nor what is right.
_READ = frozenset(
    [
        "dataset_kwargs",
        "dataset_path",
        "description",
        "doc_to_choice",
        "doc_to_target",
        "doc_to_text",
        "fewshot_config",
        "fewshot_split",
        "num_fewshot",
        "test_split",
        "training_split",
        "validation_split",
    ]
)
_DESCRIBES = frozenset(
    [
        "dataset_name",
        "doc_to_decontamination_query",
        "fewshot_delimiter",
        "generation_kwargs",
        "group",
        "group_alias",
        "metadata",
        "metric_list",
        "should_decontaminate",
        "tag",
        "target_delimiter",
        "task",
        "task_alias",
        "version",
    ]
)
_CHOOSES = "multiple_choice"
_DONE = {"output_type": ("generate_until", _CHOOSES), "repeats": (1,)}
"""Values that ask for what is done."""
_INSTEAD = {
    "filter_list": "answers are scored whole; have the model asked for the answer alone by the source's instruction",
    "output_type": "an item is answered in words, generate_until, or has its choices compared, multiple_choice",
    "repeats": "each item is asked once",
}


def lm_eval_items(path: Path, roots: Sequence[Path], seed: int = 0) -> Iterator[Item]:
    """Items of a task in YAML whose data lies beside it, below one of `roots`; `seed` draws examples.

    Raises:
        PreconditionFailed: TASK_UNSUPPORTED, it asks for what is not done here.
        ValueError: It cannot be read; it says where.
    """
    with at(path.name):
        task = _read_yaml(path)
        count = _examples_asked(task)
        _check_supported(path, task, count)
        if task.get("dataset_path") not in ROWS:
            raise ValueError("dataset_path must be json, csv or parquet; data is never fetched")
        asked = str(task.get("test_split") or task.get("validation_split") or "test")
        files = _files(path, task, asked, roots)
        rows: Iterable[Row] = _rows(task, files)
        pool: Sequence[Row] = ()
        if count and (samples := _samples(task)) is not None:
            pool = samples
        elif count:
            others = _files(path, task, _examples_split(task) or asked, roots)
            pool = list(_rows(task, others))
            rows = pool if others == files else rows
        examples = Examples(task, pool, count, seed)
    for place, row in rows:
        with at(place):
            item = _item(path, task, row, examples)
        yield item


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows no tags but YAML's own, so that `!function` is refused."""

    try:
        document: Any = yaml.load(read_text(path), Loader)  # noqa: S506 - a subclass of SafeLoader.
    except yaml.YAMLError as err:
        raise ValueError(f"it is no YAML, or wants code to be run: {err}") from err
    if not isinstance(document, dict) or "include" in document:
        raise ValueError("it must be one mapping without 'include'")
    return document  # type: ignore[return-value]


def _check_supported(path: Path, task: Mapping[str, Any], examples: int) -> None:
    """Refuses a task that asks for what is not done here. What is empty asks for nothing."""
    asked = {str(key): value for key, value in task.items() if value and key not in _READ | _DESCRIBES}
    asked |= {
        f"dataset_kwargs.{key}": value
        for key, value in (dict[str, Any](task.get("dataset_kwargs") or {})).items()
        if value and key != "data_files"
    }
    if examples:
        config = dict[str, Any](task.get("fewshot_config") or {})
        asked |= {f"fewshot_config.{key}": value for key, value in config.items() if value and key not in CONFIG}
        if config.get("sampler") not in (None, *SAMPLERS):
            asked["fewshot_config.sampler"] = config["sampler"]
    unsupported = [key for key, value in asked.items() if value not in _DONE.get(key, ())]
    if unsupported:
        told = "; ".join(f"{key} ({_INSTEAD[key]})" if key in _INSTEAD else printable(key) for key in unsupported)
        raise _unsupported(path, told)


def _unsupported(path: Path, told: str) -> PreconditionFailed:
    message = f"{path.name} asks for what is not applied here: {told[:SAID_CHARACTERS]}; take it out of the task"
    return PreconditionFailed("TASK_UNSUPPORTED", message, {"path": path.name})


def _examples_asked(task: Mapping[str, Any]) -> int:
    count: Any = task.get("num_fewshot") or 0
    if not isinstance(count, int) or not 0 <= count <= _MAX_EXAMPLES:
        raise ValueError(f"num_fewshot must be a whole number from 0 to {_MAX_EXAMPLES}")
    return int(count)


def _examples_split(task: Mapping[str, Any]) -> str:
    """The split that examples are from: the one named, else the one for training, else the one for validation."""
    config: Mapping[str, Any] = task.get("fewshot_config") or {}
    named = config.get("split", task.get("fewshot_split"))
    return str(named or task.get("training_split") or task.get("validation_split") or "")


def _samples(task: Mapping[str, Any]) -> Sequence[Row] | None:
    """Examples that stand in the task itself; a split that is named comes before them."""
    config: Mapping[str, Any] = task.get("fewshot_config") or {}
    samples: Any = config.get("samples")
    if samples is None or config.get("split", task.get("fewshot_split")) is not None:
        return None
    if not isinstance(samples, list) or not all(isinstance(each, dict) for each in samples):  # type: ignore[reportUnknownVariableType]
        raise ValueError("fewshot_config.samples must be a list of rows")
    return [(f"sample {number}", row) for number, row in enumerate(samples, start=1)]  # type: ignore[reportUnknownArgumentType]


def _files(path: Path, task: Mapping[str, Any], split: str, roots: Sequence[Path]) -> list[Path]:
    """The files of a split; one list of files without splits is that of each."""
    files: Any = task["dataset_kwargs"]["data_files"]
    if isinstance(files, dict) and split not in files:
        raise ValueError(f"data_files has no split {split!r}")
    named: Any = files[split] if isinstance(files, dict) else files
    found: list[Path] = []
    for name in [named] if isinstance(named, str) else list[Any](named):
        data = (path.parent / str(name)).resolve()
        if not any(data.is_relative_to(root) for root in roots):
            raise ValueError(f"{name} is outside the task roots")
        found.append(data)
    return found


def _rows(task: Mapping[str, Any], files: Sequence[Path]) -> Iterator[Row]:
    for file in files:
        yield from ROWS[task["dataset_path"]](file)


def _item(path: Path, task: Mapping[str, Any], row: dict[str, Any], examples: Examples) -> Item:
    chooses = task.get("output_type") == _CHOOSES
    question = rendered("doc_to_text", task.get("doc_to_text"), row)
    if chooses and question.isdigit():
        raise _unsupported(path, "doc_to_text that is a number (each choice is put after the same question)")
    prompt = [*examples.before(row), Message("user", question)]
    description = task.get("description") or ""
    if not isinstance(description, str):
        raise ValueError("description must be text or a template")
    if description.strip():
        prompt.insert(0, Message("system", by_template("description", description.strip(), row)))
    asked: Any = task.get("doc_to_choice")
    choices = choices_of(asked, row) if asked is not None else None
    target = target_of(task.get("doc_to_target"), choices, row, untyped=task.get("dataset_path") == "csv")
    item = item_of(prompt, [text.strip() for text in target.texts])
    if not chooses:
        return item
    if not choices or not all(choices):
        raise ValueError("multiple_choice needs doc_to_choice, and none of the choices empty")
    if not target.places:
        raise ValueError(f"the target {', '.join(target.texts)[:100]} is none of its {len(choices)} choices")
    for choice in choices:
        choice.encode()  # As of the question: half a character cannot be sent.
    return replace(item, choices=choices, right=target.places)
