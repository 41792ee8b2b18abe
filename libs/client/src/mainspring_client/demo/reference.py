"""Documents for retrieval: Python's own reference, which every Python carries as `pydoc_data.topics`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pydoc_data import topics

BASE_URI = "https://docs.python.org/3/"


def reference_documents() -> Iterator[str]:
    """One JSON line `{id, title, uri, text}` per topic."""
    for topic, text in sorted(topics.topics.items()):
        title = text.strip().splitlines()[0] if text.strip() else topic
        yield json.dumps({"id": topic, "title": title[:200], "uri": f"{BASE_URI}search.html?q={topic}", "text": text})
