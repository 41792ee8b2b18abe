"""How improbable texts are as answers, by the engine's log-probabilities; each is asked for once and kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mainspring_evaluator.application.generation import Generation
from mainspring_evaluator.application.judging import Check
from mainspring_evaluator.application.ports import Ports
from mainspring_evaluator.domain.inquiries import Version
from mainspring_evaluator.domain.items import Item, observation_key, prompt_digest
from mainspring_evaluator.domain.suites import Retrieval
from mainspring_svckit.errors import PreconditionFailed

Text = tuple[int, str]
"""The place of an item, and a text as its answer."""
PARTS = ("perplexity", "perplexity_tokens")
"""Names of a text's two figures, its surprise and its tokens."""


class Surprise:
    """Asks how improbable texts are."""

    def __init__(self, ports: Ports, generation: Generation) -> None:
        self._ports, self._generation = ports, generation

    async def of(
        self,
        project: str,
        holder: str,
        version: Version,
        items: Sequence[Item],
        texts: Sequence[Text],
        *,
        context: Retrieval | None,
        check: Check,
    ) -> Mapping[Text, tuple[float, int]]:
        """Surprise of a version at each text in nats, and its tokens; before each question `check` may end it.

        Raises:
            PreconditionFailed: SCORE_NOT_FINITE, INFERENCE_FAILED or what `check` raises; what was said is kept.
            Unavailable: INFERENCE_FAILED, somebody cannot be asked now.
        """
        ports = self._ports
        digests = {index: prompt_digest(items[index].prompt) for index, _ in texts}
        asked_with = passages_key(context)
        keys = {
            (index, text): tuple(
                observation_key(part, version.identity, digests[index], text, *asked_with) for part in PARTS
            )
            for index, text in texts
        }
        async with ports.transactions.transaction():
            wanted = [key for pair in keys.values() for key in pair]
            known = dict(await ports.observations.known(project, wanted))
        missing = [text for text, pair in keys.items() if any(key not in known for key in pair)]
        if missing:
            await ports.inference.hold(version.name, holder)

        async def one(each: Text) -> None:
            index, text = each
            await check()
            said = await self._generation.patiently(
                f"a text of item {index}",
                lambda: ports.inference.score(
                    version.name, items[index].prompt, text, context=context, unit=version.unit
                ),
            )
            nats = -math.fsum(finite(said, "log-probabilities"))
            found = dict(zip(keys[each], (nats, float(len(said))), strict=True))
            async with ports.transactions.transaction():
                await ports.observations.put(project, found)
            known.update(found)

        await self._generation.each(missing, one)
        return {text: (known[nats], int(known[tokens])) for text, (nats, tokens) in keys.items()}


def most_probable(item: Item, nats: Sequence[float]) -> tuple[bool, bool]:
    """Whether the most probable of an item's choices is right: as it stands, and with its log-probability divided by
    its characters; the first of several. `acc` and `acc_norm` of lm-evaluation-harness (`process_results`, 0.4.13).
    """
    places = range(len(item.choices))
    likely = min(places, key=lambda place: nats[place])
    by_length = min(places, key=lambda place: nats[place] / len(item.choices[place]))
    return likely in item.right, by_length in item.right


def passages_key(context: Retrieval | None) -> tuple[object, ...]:
    """What passages add to the key of a figure; figures without any keep the keys that they always had."""
    return () if context is None else ([context.collection, context.top_k],)


def finite(figures: Sequence[float], scorer: str) -> Sequence[float]:
    """The figures, if each is a number; one that is none would be taken for good or for bad by chance."""
    if not all(map(math.isfinite, figures)):
        message = f"{scorer}: who was asked gave a figure that is no finite number"
        raise PreconditionFailed("SCORE_NOT_FINITE", message)
    return figures
