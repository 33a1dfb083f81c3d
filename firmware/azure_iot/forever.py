"""Work that nothing ends but cancelling: what a device does for as long as it lives.

Responsible for: starting such work again after whatever it raised. Not for: what may go wrong in
it; that is handled, and reported, where it happens.

    task = asyncio.create_task(forever(self._look))
"""

import asyncio

from micropython import const

from . import log

TYPE_CHECKING = const(False)
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PAUSE_MS = const(5000)


async def forever(
    work: "Callable[[], Awaitable]", wanted: "Callable[[], object] | None" = None
) -> None:
    """Run `await work()`, and again whenever it has ended.

    While `wanted()` is true nobody cancelled it: asyncio's wait_for had no memory for its result.
    """
    while True:
        try:
            await work()
        except asyncio.CancelledError:
            if wanted is None or not wanted():
                raise
        except Exception as error:
            log.error("%r ended what must not end: it starts anew", error)
        await asyncio.sleep_ms(_PAUSE_MS)
