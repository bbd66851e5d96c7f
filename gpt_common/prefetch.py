"""Reading ahead in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls `read` again and again in a thread, one call ahead of `next`.

    `read` returns all that belongs to one result, so that the state of what has been handed out is
    not that of what has been read.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self.read = read
        self.thread = ThreadPoolExecutor(1, "prefetch")
        self.ahead: Future[T] | None = None

    def next(self) -> T:
        """Return the next result of `read`; raise the exception that it raised, if any."""
        result = (self.ahead or self.thread.submit(self.read)).result()
        self.ahead = self.thread.submit(self.read)
        return result

    def close(self) -> None:
        """End the thread, after the call that it is in."""
        self.thread.shutdown(cancel_futures=True)
