"""First call: asks a model and prints its answer.

    python first_call.py projects/demo/models/summaries "def add(a, b): ..."

Without MAINSPRING_ADDRESS and MAINSPRING_TOKEN it asks the local stack that `mainspring up` started.
"""

from __future__ import annotations

import asyncio
import sys

from mainspring.inference.v1 import answer_pb2
from mainspring_client import Mainspring


async def main(model: str, question: str) -> None:
    """Prints the answer, and what a judgement of it needs."""
    sampling = answer_pb2.SamplingParameters(max_output_tokens=64, temperature=0)
    async with Mainspring.connect() as mainspring:
        answer = await mainspring.inference.answer(model, question, sampling=sampling)
    print(answer.text)
    print(f"{answer.name}: {answer.usage.output_tokens} tokens by {answer.model_version}", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
