"""Runs what blocks in a few threads, so that requests leave the processor to the pipeline."""

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bloodedge_device.store import queries
from bloodedge_device.store.rows import SlideRow
from bloodedge_device.web.desk import Desk

THREADS = 6
"""Requests handled at once; others wait their turn."""
WAITING = 16
"""Requests that may wait for a frame at once; others are answered at once."""
STEP_S = 0.5
"""A waiting thread checks so often whether to go on waiting, so that the daemon's end is not held up."""

Result = TypeVar("Result")
Handler = Callable[[Desk, Request], Response]


class Work:
    """The daemon's desk, and the threads in which requests use it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._threads, self._waiting = CapacityLimiter(THREADS), CapacityLimiter(WAITING)
        self._probes = CapacityLimiter(1)

    def endpoint(self, handler: Handler, *, probe: bool = False) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint for Starlette from a handler that blocks; probe: one that does not wait behind others."""
        limiter = self._probes if probe else self._threads

        async def handle(request: Request) -> Response:
            return await to_thread.run_sync(handler, self.desk, request, limiter=limiter)

        return handle

    async def wait_for_frame(self, request: Request, after: int, wait_s: float) -> None:
        """Wait for a frame numbered above ``after``, unless too many wait or the caller goes away."""
        for _ in range(math.ceil(wait_s / STEP_S)):
            if self._waiting.available_tokens < 1 or await request.is_disconnected():
                return
            step_s = min(STEP_S, wait_s)
            if await to_thread.run_sync(self.desk.live.wait, after, step_s, limiter=self._waiting) is not None:
                return

    async def run(self, handler: Callable[[], Result]) -> Result:
        """Run something that blocks."""
        return await to_thread.run_sync(handler, limiter=self._threads)


def slide_or_404(desk: Desk, request: Request) -> SlideRow:
    """The slide that a request's path names; 404 when there is none."""
    number: int = request.path_params["slide"]
    slide = queries.find_slide(desk.state, number)
    if slide is None:
        raise HTTPException(404, f"There is no slide {number}; choose another.")
    return slide
