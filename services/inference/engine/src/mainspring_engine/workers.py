"""Threads that answer requests: as many as the model has slots, behind a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Workers:
    """Runs jobs in threads. A job must not raise; what it does about failures is its own business."""

    def __init__(self, count: int, queue_max: int, name: str) -> None:
        """Starts `count` threads; at most `queue_max` jobs wait."""
        self._queue: queue.Queue[Job | None] = queue.Queue(queue_max)
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> bool:
        """Queues a job; False when the queue is full."""
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            return False
        return True

    def close(self, timeout_s: float) -> None:
        """Ends the threads after the jobs that are queued, waiting at most `timeout_s` for each."""
        for _ in self._threads:
            try:
                self._queue.put(None, timeout=timeout_s)
            except queue.Full:
                return
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            job()
