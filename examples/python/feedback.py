"""Asks, and tells how the answer should have been; enough of that turns the loop.

    python feedback.py projects/demo/models/summaries "def add(a, b): ..." "Return the sum of two numbers."

Needs a token with the role annotator.
"""

from __future__ import annotations

import asyncio
import sys

from mainspring.feedback.v1 import feedback_pb2
from mainspring_client import Mainspring


async def main(model: str, question: str, correction: str) -> None:
    """Sends one correction; it names the answer that it judges."""
    async with Mainspring.connect() as mainspring:
        answer = await mainspring.inference.answer(model, question)
        item = await mainspring.feedback.send(feedback_pb2.FeedbackItem(answer=answer.name, correction=correction))
    print(f"{answer.text}\n-> {item.correction}  ({item.name})")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
