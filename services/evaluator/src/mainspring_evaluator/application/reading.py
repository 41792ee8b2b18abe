"""Where a run's items come from, and that the candidate did not learn from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from mainspring_evaluator.application.ports import Ports, VersionInfo
from mainspring_evaluator.domain.items import Item, ItemSelection, prompt_digest, question_digest
from mainspring_evaluator.domain.suites import EvaluationSuite, ItemSource, Split
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.values import Message

_ROWS_TOLD = 20
_ANCESTORS_MAX = 64


@dataclass(frozen=True)
class ItemSet:
    """The items of a run.

    Attributes:
        items: Each question once, in a stable order.
        dataset_version: The first dataset that they are from, or empty.
        root_sha256: Digest that identifies all data that they are from.
    """

    items: tuple[Item, ...]
    dataset_version: str
    root_sha256: str


class ItemReader:
    """Reads a suite's items for a candidate."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def read(self, suite: EvaluationSuite, candidate: VersionInfo) -> ItemSet:
        """The items of all sources.

        Raises:
            PreconditionFailed: NO_TEST_ROWS, DATASET_UNREADABLE, SAFETY_SET_MISSING, TASK_UNREADABLE,
                TASK_UNSUPPORTED, or SUITE_OVERLAPS_TRAINING, the candidate learned from some of them.
            Unavailable: Something cannot be read now.
        """
        sources = suite.sources or (self._default_source(suite, candidate),)
        chosen: dict[str, Item] = {}
        roots: dict[str, str] = {}
        for source in sources:
            root, items = await self._items(suite, source)
            roots[source.dataset_version or source.harness_path or f"safety/{source.safety_set}"] = root
            for item in items:
                chosen.setdefault(prompt_digest(item.prompt), item)
        digests = sorted(chosen)[: suite.max_items or None] if suite.sources else list(chosen)
        items = tuple(replace(chosen[digest], slices=suite.slices_of(chosen[digest].question)) for digest in digests)
        if not items:
            places = ", ".join(roots)
            raise PreconditionFailed("NO_TEST_ROWS", f"{places} has no rows; publish a version with rows in it")
        if not suite.allow_training_overlap:
            await self._check_overlap(sources, items, candidate)
        dataset_version = next((source.dataset_version for source in sources if source.dataset_version), "")
        return ItemSet(items, dataset_version, _root_of(roots))

    def _default_source(self, suite: EvaluationSuite, candidate: VersionInfo) -> ItemSource:
        dataset = suite.dataset_version or candidate.dataset_version
        if not dataset:
            message = f"neither {suite.name} nor {candidate.name} names a dataset version; set sources in the suite"
            raise PreconditionFailed("NO_TEST_ROWS", message)
        return ItemSource("", dataset_version=dataset, max_items=suite.max_items)

    async def _items(self, suite: EvaluationSuite, source: ItemSource) -> tuple[str, Sequence[Item]]:
        limit = min(filter(None, (source.max_items, suite.max_items)), default=0)
        if source.dataset_version:
            split = await self._ports.datasets.read(source.dataset_version, source.split)
            selection = ItemSelection(limit)
            async for batch in split.rows:
                for row in batch:
                    selection.add(row.messages)
            return split.root_sha256, [_of_task(source, item) for item in selection.items()]
        if source.safety_set is not None:
            found = await self._ports.item_files.safety(source.safety_set)
        else:
            found = await self._ports.item_files.harness(source.harness_path, suite.sampling.seed)
        items = sorted((_of_task(source, item) for item in found), key=lambda item: prompt_digest(item.prompt))
        digest = hashlib.sha256()
        for item in items:
            digest.update(item.sha256.encode())
        return digest.hexdigest(), items[: limit or None]

    async def _check_overlap(
        self, sources: Sequence[ItemSource], items: Sequence[Item], candidate: VersionInfo
    ) -> None:
        """Looks for the items' questions in what the candidate, and all that it was made from, learned from.

        Splits of one version never share a question, so a version's own test split needs no look.
        """
        asked = {question_digest(item.question) for item in items if item.safety is None}
        learned: dict[str, str] = {}
        for ancestor in await self._ancestors(candidate):
            for dataset in (ancestor.dataset_version, *ancestor.also_learned):
                learned.setdefault(dataset, ancestor.name)
        for dataset, by in learned.items():
            foreign = any(
                source.safety_set is None and (source.dataset_version, source.split) != (dataset, Split.TEST)
                for source in sources
            )
            found, overlap = await self._overlap(asked, dataset) if dataset and foreign else ((), 0)
            if overlap:
                who = candidate.name if by == candidate.name else f"{by}, which {candidate.name} was made from,"
                more = f" and {overlap - len(found)} more" if overlap > len(found) else ""
                message = (
                    f"{who} learned from {overlap} rows of {dataset} that ask what the suite asks:"
                    f" {', '.join(found)}{more}; train without them, or set allow_training_overlap"
                )
                raise PreconditionFailed("SUITE_OVERLAPS_TRAINING", message, {"rows": str(overlap)})

    async def _ancestors(self, candidate: VersionInfo) -> list[VersionInfo]:
        """The candidate, and what it was made from, nearest first: what it went on from or was compressed from, and its
        foundation model.
        """
        found, waiting = {candidate.name: candidate}, [candidate.parent, candidate.base]
        while waiting and len(found) < _ANCESTORS_MAX:
            name = waiting.pop(0)
            if name and name not in found:
                found[name] = await self._ports.catalogue.version(name)
                waiting += [found[name].parent, found[name].base]
        return list(found.values())

    async def _overlap(self, asked: Set[str], learned: str) -> tuple[Sequence[str], int]:
        """Where the first rows stand that ask what the suite asks, and how many there are."""
        found: list[str] = []
        overlap = 0
        for part in (Split.TRAIN, Split.VALIDATION):
            rows = await self._ports.datasets.read(learned, part)
            async for batch in rows.rows:
                for row in batch:
                    if any(m.role == "user" and question_digest(m.content) in asked for m in row.messages[:-1]):
                        overlap += 1
                        if len(found) < _ROWS_TOLD:
                            found.append(f"{part.value} {row.place}")
        return found, overlap


def _of_task(source: ItemSource, item: Item) -> Item:
    if source.instruction:
        first, *rest = item.prompt
        spoken = [first.content, source.instruction] if first.role == "system" else [source.instruction]
        others = rest if first.role == "system" else item.prompt
        item = replace(item, prompt=(Message("system", "\n\n".join(spoken)), *others))
    return replace(item, task=source.task)


def _root_of(roots: dict[str, str]) -> str:
    """The digest of the only source, or one over all."""
    if len(roots) == 1:
        return next(iter(roots.values()))
    return hashlib.sha256("\n".join(f"{name} {root}" for name, root in sorted(roots.items())).encode()).hexdigest()
