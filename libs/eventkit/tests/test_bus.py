"""The connection to the bus, without a bus."""

import asyncio

from mainspring_eventkit.bus import cancellation_kept


async def test_a_cancellation_that_comes_together_with_an_answer_is_not_forgotten() -> None:
    answer = asyncio.get_running_loop().create_future()

    async def follow() -> None:
        while True:
            with cancellation_kept():
                await asyncio.wait_for(asyncio.shield(answer), timeout=60)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer.set_result(None)
    asyncio.get_running_loop().call_soon(following.cancel)
    done, _ = await asyncio.wait({following}, timeout=60)
    assert done
    assert following.cancelled()
