"""An API server in memory: what is written, by whom, in which order; and everything that can go wrong on the way."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from gateway.sources.kube.client import ApiError, Reply, Unreachable

Tree = dict[str, Any]
Hook = Callable[[str, str], Awaitable[None]]


async def nothing(method: str, path: str) -> None:
    await trio.lowlevel.checkpoint()


class Memory:
    """``before`` is awaited before a request is looked at, ``after`` before it is answered; either may raise.

    ``objects`` by path. ``keeps``: members of a status that the schema knows, None for all. A path in ``bare`` has no
    status subresource.
    """

    def __init__(self, before: Hook = nothing, after: Hook = nothing) -> None:
        self.before, self.after = before, after
        self.objects: dict[str, Tree] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.keeps: set[str] | None = None
        self.bare: set[str] = set()
        self.changed = trio.Event()
        self._version = 0

    @property
    def writes(self) -> list[tuple[str, Any]]:
        return [(path, body) for method, path, body in self.calls if method != "GET"]

    def put(self, path: str, tree: Tree) -> Tree:
        self._version += 1
        tree = copy.deepcopy(tree)
        tree.setdefault("metadata", {})["resourceVersion"] = str(self._version)
        self.objects[path] = tree
        self.changed.set()
        return copy.deepcopy(tree)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Reply:
        with trio.move_on_after(30.0 if timeout is None else timeout):
            await self.before(method, path)
            self.calls.append((method, path, copy.deepcopy(body)))
            answer = self._answer(method, path, query or {}, body, content_type)
            await self.after(method, path)
            return Reply(200, msgspec.json.encode(answer))
        raise Unreachable("no answer in time")

    def _answer(self, method: str, path: str, query: dict[str, str | int], body: Any, content_type: str) -> Tree:
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ApiError(409, "AlreadyExists", "already exists")
            return self.put(path, body)
        part = path.endswith("/status")
        place = path.removesuffix("/status")
        tree = self.objects.get(place)
        if tree is None or (part and place in self.bare):
            raise ApiError(404, "NotFound", "not found")
        if method == "GET":
            return tree
        version = body["metadata"].get("resourceVersion")
        if version is not None and version != tree["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        if method == "PUT":
            return self.put(path, body)
        assert method == "PATCH"
        if content_type == "application/apply-patch+yaml":
            assert part
            assert query == {"fieldManager": "infer-gateway", "force": "true"}
        else:
            assert content_type == "application/merge-patch+json"
        return self._patch(place, tree, body, part)

    def _patch(self, place: str, tree: Tree, body: Tree, part: bool) -> Tree:
        member = "status" if part else "series"
        new = body[member]
        if part:
            new = {key: value for key, value in new.items() if self.keeps is None or key in self.keeps}
            new = {**tree.get("status", {}), **new}
        changed = {**tree, member: new}
        return copy.deepcopy(tree) if changed == tree else self.put(place, changed)
