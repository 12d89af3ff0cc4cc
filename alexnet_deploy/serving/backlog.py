"""Whether the event loop keeps up. With a fast engine, reading requests is what takes the time: then little waits in the engine's
queue, and everything before it.
"""

from __future__ import annotations

import asyncio
import time

_EVERY_S = 0.02
# Of `max_wait_s`. What is let in is dealt with in the next round, and costs some five times what letting it in does.
_LONG, _SHORT, _SHARE = 1 / 2, 1 / 8, 1 / 32
_LEAST_WAIT_S = 0.1  # rounds of a few milliseconds are what work looks like


class Backlog:
    """How long the loop's rounds are. Each goes through all that is ready: so long, about, waits whoever comes.

    Two long rounds after one another, and the loop is behind: until a round is short again, requests are let in at the beginning
    of each round only, and refused in the rest of it, which costs a fraction.

    Rounds are counted in the thread's CPU time: a machine that is busy with other things, or was stopped, is not too much load.
    """

    def __init__(self, max_wait_s: float) -> None:
        """Begins to watch the running loop."""
        wait_s = max(max_wait_s, _LEAST_WAIT_S)
        self._long_s, self._short_s, self._share_s = _LONG * wait_s, _SHORT * wait_s, _SHARE * wait_s
        self._loop = asyncio.get_running_loop()
        self._behind = False
        self._last_s = 0.0
        self._began_s = time.thread_time()
        self._timer = self._loop.call_later(_EVERY_S, self._next_round)

    def refuses(self) -> bool:
        """Whether what comes now is too much. To be asked in the loop's own thread."""
        return self._behind and time.thread_time() - self._began_s > self._share_s

    def close(self) -> None:
        self._timer.cancel()

    def _next_round(self) -> None:
        now_s = time.thread_time()
        round_s = now_s - self._began_s
        if min(round_s, self._last_s) > self._long_s:
            self._behind = True
        elif round_s < self._short_s:
            self._behind = False
        self._began_s, self._last_s = now_s, round_s
        self._timer = self._loop.call_later(_EVERY_S, self._next_round)
