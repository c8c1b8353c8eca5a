"""Keeps one kind of objects in step with an API server: listed once, watched from then on. (T)

Invariant: what is told is a difference to what was told before, in the order it happened; while the server is away,
sends garbage or has forgotten where we were, nothing is told to be gone that it has not said is gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, Generic, Literal, TypeVar

import msgspec

from gateway.sources.kube.client import Client
from gateway.sources.kube.kinds import Kind
from gateway.sources.kube.messages import Key

T = TypeVar("T")
State = Literal["syncing", "live", "absent", "forbidden", "broken"]


class Statistics(msgspec.Struct, frozen=True):
    """``since`` is on Trio's clock. ``error``: what went wrong last, "" while live."""

    state: State
    since: float
    error: str
    objects: int
    events: int
    lists: int
    restarts: int


class Reflector(Generic[T]):
    """Objects of one kind, in one namespace ("": all), chosen by selectors.

    ``decode`` makes an object of its JSON; one that it refuses (ValueError) is told in the log and left as it was.
    ``upsert`` gets what is new or has another resourceVersion, ``removed`` the key of what is gone, ``synced`` is
    called at the end of each complete list. They are called in the order of events, by the task in `run`, and must
    not wait. ``silence``: seconds without a byte after which a watch that sends bookmarks has stalled.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        decode: Callable[[msgspec.Raw], T],
        upsert: Callable[[Key, T], None],
        removed: Callable[[Key], None],
        synced: Callable[[], None] = lambda: None,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        page: int = 500,
        silence: float = 180.0,
        rng: random.Random | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def name(self) -> str:
        """For logs and metrics: "pods in team-a"."""
        raise NotImplementedError

    async def run(self) -> None:
        """Until cancelled, which is immediate. Raises nothing but what the callbacks do."""
        raise NotImplementedError

    async def wait_synced(self) -> None:
        """Until all objects were told once, or the kind turns out to be absent or forbidden."""
        raise NotImplementedError

    def hurry(self) -> None:
        """Ask again now, if the next attempt is being waited for."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        raise NotImplementedError
