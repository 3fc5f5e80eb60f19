"""gunicorn's worker: a process with a heartbeat, a graceful shutdown and the event loop."""

import math
import os
import sys
import time
from types import FrameType

from gunicorn.errors import AppImportError  # type: ignore[import-untyped]
from gunicorn.workers.base import Worker as BaseWorker  # type: ignore[import-untyped]

from serving_rest.connection_counts import Share
from serving_rest.event_loop import EventLoop

# Interval of the heartbeat to the master, and of the check that the master is alive.
HEARTBEAT_S = 0.25


class Worker(BaseWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker process on gunicorn's extension point for workers.

    On SIGTERM it reports not ready and serves on for `drain_delay_s`. It then closes the listening
    socket, so that new connections are refused at once, and completes the requests in flight. It
    does the same when its master was killed.
    """

    slot: int | None = None
    """Its slot in the server's connection counts; None in a server of one worker."""

    def __init__(self, *args: object) -> None:
        """Called by gunicorn in the master, before the fork."""
        super().__init__(*args)
        self._loop: EventLoop | None = None
        self._stop_at = math.inf
        self._give_up_at = math.inf
        self._next_heartbeat = -math.inf

    def load_wsgi(self) -> None:
        """Load the app; an invalid model folder ends a start, not the workers that still serve.

        The first worker alone ends it: gunicorn fails on a second such end while it stops.
        """
        try:
            super().load_wsgi()
        except AppImportError as error:
            if self.age == 1:
                raise
            if self.age > self.cfg.workers:
                self.log.error("no new worker: %s", error)
            time.sleep(1.0)  # the master retries at once
            sys.exit(1)

    def run(self) -> None:
        """Serve until SIGTERM or until the master is gone; called by gunicorn after the load."""
        app = self.app
        (listener,) = self.sockets
        listener.setblocking(False)
        share = None if self.slot is None else Share(app.connection_counts, self.slot)
        loop = self._loop = EventLoop(
            listener, app.predictions, self.wsgi, app.loop_settings, share
        )
        if app.runs_engine:
            loop.run_engine()
        while self._serves_on():
            loop.turn(min(HEARTBEAT_S, max(self._stop_at - time.monotonic(), 0.0)))
        app.draining = True
        loop.stop_accepting()
        self._give_up_at = min(self._give_up_at, time.monotonic() + self.cfg.graceful_timeout)
        while loop.connections and time.monotonic() < self._give_up_at:
            self._beat(time.monotonic())
            loop.turn(HEARTBEAT_S)
        loop.close()

    def _serves_on(self) -> bool:
        now = time.monotonic()
        return now < self._stop_at and self._beat(now)

    def _beat(self, now: float) -> bool:
        """Send the heartbeat to the master when it is due; return whether the master lives."""
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("the master is gone, stopping")
                return False
        return True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM. It may take no lock: the interrupted thread may hold it."""
        if not self.app.draining:
            self.app.draining = True
            now = time.monotonic()
            self._stop_at = now + self.app.settings.drain_delay_s
            self._give_up_at = now + self.cfg.graceful_timeout
            if self._loop is not None:
                self._loop.wake()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Exit at once on SIGQUIT and SIGINT."""
        os._exit(0)
