"""Electing one replica by a Lease, in company with whatever else uses client-go's leader election. (T)

Invariant: `Election.leading` is false from the moment on at which the last renewal is too old, whatever hangs, and
though the process was stopped meanwhile; a replica that ends gives the Lease back, within a second or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Final

import trio

from gateway.awake import elapsed
from gateway.sources.kube.api import Api, Tree
from gateway.sources.kube.claim import Claim
from gateway.sources.kube.client import ApiError, Unreachable
from gateway.sources.kube.kinds import LEASE

RETRY_S: Final = 2.0
FORBIDDEN_S: Final = 60.0
"""Rights may be given later."""
TIMEOUT_S: Final = 4.0
"""Of one request: two fit into the time a leader has for its renewal."""
RELEASE_S: Final = 1.0

_log: Final = logging.getLogger("infer_gateway.kubernetes")


class Election:
    """``identity`` is this replica's alone; ``changed`` hears when it begins to lead and when it no longer does.

    Without the right to Leases nobody is elected; the log says once what is missing.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        changed: Callable[[bool], object] = lambda leading: None,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = elapsed,
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._namespace, self._name = namespace, name
        self._claim = Claim(namespace, name, identity)
        self._changed = changed
        self._wall = wall
        self._now = now
        self._rng = random.Random() if rng is None else rng
        self._unsure = False  # whether a write was sent whose answer never came
        self._told = False
        self._problem = ""

    @property
    def leading(self) -> bool:
        return self._claim.leads(self._now())

    @property
    def holder(self) -> str:
        """Who leads, as far as is known here; "" for nobody."""
        return self._claim.holder

    @property
    def problem(self) -> str:
        """Why it was not possible to ask, the last time; "" if it was."""
        return self._problem

    async def run(self) -> None:
        """Until cancelled; what is held then is given back, for which cancellation waits a second at most."""
        try:
            while True:
                left = max(0.0, self._claim.until - self._now()) if self.leading else math.inf
                with trio.move_on_after(left):
                    pause = await self._turn()
                    self._tell()
                    await trio.sleep(pause)
                self._tell()
        finally:
            await self._release()

    async def _turn(self) -> float:
        """Ask once; seconds until it is worth asking again."""
        try:
            await self._ask()
        except ApiError as error:
            self._fail(error)
            if error.status in (403, 404):
                return FORBIDDEN_S
            return max(RETRY_S, min(error.retry_after or 0.0, FORBIDDEN_S)) * self._rng.uniform(1.0, 1.2)
        except Unreachable as error:
            self._fail(error)
        else:
            self._problem = ""
        return RETRY_S * self._rng.uniform(1.0, 1.2)

    async def _ask(self) -> None:
        claim = self._claim
        if self.leading and await self._write():
            return
        claim.see(await self._get(), self._now())
        if claim.free(self._now()):
            await self._write()

    async def _write(self) -> bool:
        """Take or renew it as it was last seen; False if it is not like that any more."""
        asked, claim = self._now(), self._claim
        self._unsure = True
        try:
            lease = await self._send(claim.wish(self._wall()))
        except ApiError as error:
            self._unsure = False
            if error.status == 409 or (error.status == 404 and claim.exists):
                return False
            raise
        self._unsure = False
        claim.taken(lease, asked, self._now())
        return True

    async def _get(self) -> Tree | None:
        try:
            reply = await self._api.request("GET", LEASE.path(self._namespace, self._name), timeout=TIMEOUT_S)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return _tree(reply.json())

    async def _send(self, lease: Tree) -> Tree:
        exists = self._claim.exists
        method, path = (
            ("PUT", LEASE.path(self._namespace, self._name)) if exists else ("POST", LEASE.path(self._namespace))
        )
        reply = await self._api.request(method, path, body=lease, timeout=TIMEOUT_S)
        return _tree(reply.json())

    async def _release(self) -> None:
        held, now = self.leading or self._unsure, self._now()
        self._claim.stop()
        self._tell()
        if not held:
            return
        # where it fails the Lease runs out by itself
        with trio.move_on_after(RELEASE_S, shield=True), contextlib.suppress(ApiError, Unreachable):
            if self._unsure:
                self._claim.see(await self._get(), now)
            if self._claim.holder == self._claim.identity:
                await self._send(self._claim.release(self._wall()))

    def _tell(self) -> None:
        leading = self.leading
        if leading != self._told:
            self._told = leading
            _log.info(
                "lease %s/%s: this replica %s", self._namespace, self._name, "leads" if leading else "leads no more"
            )
            self._changed(leading)

    def _fail(self, error: ApiError | Unreachable) -> None:
        problem = _described(error, self._namespace)
        if problem != self._problem:
            self._problem = problem
            away = isinstance(error, Unreachable)  # which whoever watches tells, too
            _log.log(logging.INFO if away else logging.WARNING, "lease %s/%s: %s", self._namespace, self._name, problem)


def _tree(value: object) -> Tree:
    if isinstance(value, dict):
        return value
    raise Unreachable("the answer is no object")


def _described(error: ApiError | Unreachable, namespace: str) -> str:
    if isinstance(error, ApiError) and error.status == 403:
        return (
            "statuses are not written, as no replica can be elected: this service account needs get, create and update "
            f"on leases of {LEASE.group} in namespace {namespace}"
        )
    if isinstance(error, ApiError) and error.status == 404:
        return f"statuses are not written, as no replica can be elected: {error}"
    return str(error)
