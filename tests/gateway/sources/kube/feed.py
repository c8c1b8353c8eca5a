"""An API server in memory for reflectors: one kind, its history, and what can go wrong with it. (T)"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from gateway.sources.kube.client import MAX_PAGE, ApiError, Reply, TooLong, Unreachable
from gateway.sources.kube.kinds import MODEL_ROUTE

BREAKING = ("garbage", "truncated", "not json", "nameless", "strange", "huge", "error", "reset", "close", "stall")


class Feed:
    """``objects`` by name as (version, value). ``faults`` are what the next streams end with, ``refusals`` what the
    next requests get; ``down`` refuses all; ``weights`` are bytes of objects by name. ``endless``: instead of lists,
    parts of one that has no end: of each its token, and how many objects there are in it. ``asked`` holds (virtual
    time, "list" or "watch", query).
    """

    def __init__(self) -> None:
        self.version = 10
        self.objects: dict[str, tuple[int, int]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.floor = 0
        self.token_floor = 0
        self.refusals: deque[Exception] = deque()
        self.faults: deque[str] = deque()
        self.down: Exception | None = None
        self.unwatchable: Exception | None = None
        self.endless: Callable[[], tuple[str, int]] | None = None
        self.asked: list[tuple[float, str, Mapping[str, str | int]]] = []
        self.bookmark_s = 60.0
        self.weights: dict[str, int] = {}
        self.open = 0
        self.deleted: dict[str, int] = {}
        self._lists: dict[str, list[dict[str, Any]]] = {}
        self._changed = trio.Event()

    # --- what happens in the cluster

    def put(self, name: str, value: int) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = (self.version, value)
        self._happened(kind, tree(name, self.version, value))

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            value = self.objects.pop(name)[1]
            self.deleted[name] = self.deleted.get(name, 0) + 1
            self._happened("DELETED", tree(name, self.version, value))

    def compact(self) -> None:
        """What was until now is forgotten."""
        self.floor = self.version
        self.token_floor = self.version + 1
        self._wake()

    def break_streams(self, fault: str) -> None:
        self.faults.append(fault)
        self._wake()

    def _happened(self, kind: str, object_: dict[str, Any]) -> None:
        self.history.append((self.version, kind, object_))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- what is asked of it

    def _admit(self, what: str, query: Mapping[str, str | int]) -> None:
        self.asked.append((trio.current_time(), what, dict(query)))
        if self.refusals:
            raise self.refusals.popleft()
        if self.down is not None:
            raise self.down

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int],
        timeout: float | None = None,
        limit: int = MAX_PAGE,
    ) -> Reply:
        assert (method, path) == ("GET", MODEL_ROUTE.path())
        await trio.lowlevel.checkpoint()
        self._admit("list", query)
        if self.endless is not None:
            token, count = self.endless()
            items = [tree(name, *self.objects[name]) for name in sorted(self.objects)[:count]]
            return self._part(self.version, token, items)
        token, count = str(query["continue"]), int(query["limit"])
        version = int(token.split(":")[0]) if token else self.version
        if token and version < self.token_floor:
            raise ApiError(410, "Expired", "The provided continue parameter is too old")
        listed = self._lists[token] if token else [tree(n, *v) for n, v in sorted(self.objects.items())]
        if sum(self.weights.get(each["metadata"]["name"], 0) for each in listed[:count]) > limit:
            raise TooLong("too long")
        self._lists.pop(token, None)
        rest, token = listed[count:], ""
        if rest:
            token = f"{version}:{len(self.asked)}"
            self._lists[token] = rest
        return self._part(version, token, listed[:count])

    @staticmethod
    def _part(version: int, token: str, items: list[dict[str, Any]]) -> Reply:
        metadata = {"resourceVersion": str(version), "continue": token}
        body = {"kind": "ModelRouteList", "metadata": metadata, "items": items or None}
        return Reply(200, json.dumps(body).encode())

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str | int]) -> AsyncIterator[Stream]:
        await trio.lowlevel.checkpoint()
        self._admit("watch", query)
        if self.unwatchable is not None:
            raise self.unwatchable
        assert query["allowWatchBookmarks"] == "true"
        assert 300 <= int(query["timeoutSeconds"]) <= 600
        version = int(query["resourceVersion"])
        if version < self.floor and version % 2:
            raise ApiError(410, "Expired", "too old resource version")
        self.open += 1
        try:
            yield Stream(self, version, trio.current_time() + float(query["timeoutSeconds"]))
        finally:
            self.open -= 1


class Stream:
    def __init__(self, feed: Feed, version: int, ends: float) -> None:
        self._fleet = feed
        self._version = version
        self._ends = ends
        self._last = b""

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        feed = self._fleet
        while True:
            if self._last:
                return await self._ending()
            if self._version < feed.floor:
                self._last = b" "
                return line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
            if news := b"".join(self._news()):
                return news
            if feed.faults:
                self._last = feed.faults.popleft().encode()
                return await self._ending()
            with trio.move_on_after(min(self._ends - trio.current_time(), feed.bookmark_s)):
                await feed._changed.wait()
                continue
            if trio.current_time() >= self._ends:
                return b""
            return line("BOOKMARK", {"kind": "ModelRoute", "metadata": {"resourceVersion": str(feed.version)}})

    def _news(self) -> Iterator[bytes]:
        for version, kind, object_ in self._fleet.history:
            if version > self._version:
                self._version = version
                yield line(kind, object_)

    async def _ending(self) -> bytes:
        fault, self._last = self._last.decode(), b" "
        good = line("ADDED", tree("x", 1, 1))
        match fault:
            case "garbage":
                return b"\x00\xff<html>\n"
            case "truncated":
                self._last = b"close"
                return good[:-20]
            case "not json":
                return good[:-10] + b"\n"
            case "nameless":
                return line("ADDED", {"kind": "ModelRoute", "spec": {}})
            case "strange":
                return line("SURPRISE", tree("x", 1, 1))
            case "huge":
                self._last = b"huge"
                return b"x" * (9 << 20)
            case "error":
                return line("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd"})
            case "reset":
                raise Unreachable("connection reset")
            case "stall":
                await trio.sleep_forever()
        return b""


def tree(name: str, version: int, value: int) -> dict[str, Any]:
    return {
        "kind": "ModelRoute",
        "metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)},
        "spec": {"value": value},
    }


def line(kind: str, object_: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": object_}).encode() + b"\n"
