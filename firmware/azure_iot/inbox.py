"""A bounded queue from the link to the application.

Responsible for: keeping the newest `size` items, counting what it drops, waking one reader.
Not responsible for: what the items mean. No async generator: MicroPython has none.

    inbox = Inbox(16)
    inbox.put(message)               # from the link; never waits
    async for message in inbox: …    # ends after close()
"""

import asyncio


class Inbox:
    """Keep up to `size` items in order; a put into a full inbox drops the oldest."""

    def __init__(self, size: int) -> None:
        self._items = []
        self._size = size
        self._event = self._run = None
        self._closed = False
        self.drops = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: object) -> "object | None":
        """Add `item`; return the item that had to go, or None."""
        dropped = None
        if len(self._items) >= self._size:
            dropped = self._items.pop(0)
            self.drops += 1
        self._items.append(item)
        self._signal().set()
        return dropped

    def emptied(self) -> bool:
        """Drop all items where there is no room for one more; tell whether it did."""
        n = len(self._items)
        if n < self._size:
            return False
        self.drops += n
        self._items = []
        return True

    def get_nowait(self) -> "object | None":
        """Return the oldest item, or None when there is none."""
        return self._items.pop(0) if self._items else None

    async def get(self) -> object:
        """Wait for the oldest item. Raises EOFError once the inbox is closed and empty."""
        while not self._items:
            if self._closed:
                raise EOFError("inbox closed")
            event = self._signal()
            event.clear()
            await event.wait()
        return self._items.pop(0)

    def close(self) -> None:
        """End every `async for` after the items still inside."""
        self._closed = True
        self._signal().set()

    def _signal(self) -> "asyncio.Event":
        """Give the event of this asyncio.run: it must wake nobody of one that has ended."""
        run = asyncio.core._task_queue  # type: ignore[attr-defined]
        if run is not self._run:
            self._run = run
            self._event = asyncio.Event()
        return self._event

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> object:
        if self._closed and not self._items:
            raise StopAsyncIteration
        try:
            return await self.get()
        except EOFError:
            raise StopAsyncIteration
