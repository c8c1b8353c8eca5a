"""What a client wants, whatever dialect it said it in, and the answer an engine will give: decided before it runs. (P)

Invariant: the plan depends on the prompt, the parameters and the seed only, so the same request gets the same answer
from every replica, streamed or not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from conformance.engines import text


class Ask(msgspec.Struct):
    """One request for text, normalised. ``prompts`` are rendered; ``limit`` is None where the client set none."""

    model: str
    prompts: list[bytes]
    adapter: str = ""
    n: int = 1
    limit: int | None = None
    stop: list[str] = []
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    logprobs: int | None = None
    tool: dict[str, Any] | None = None
    tool_forced: bool = False
    schema: Any = None
    reasons: bool = False
    echo: bool = False
    salt: str = ""
    id: str = ""


class Plan(msgspec.Struct, frozen=True):
    """An answer, token by token. ``quoted`` is ``pieces`` as JSON strings; the first ``reasoning`` pieces are thoughts.

    ``finish`` is stop or length; ``matched`` the stop string that ended it. With a ``tool`` the pieces after the
    thoughts are its arguments.
    """

    pieces: list[str]
    quoted: list[bytes]
    finish: str
    matched: str | None = None
    reasoning: int = 0
    tool: str | None = None

    @property
    def length(self) -> int:
        return len(self.pieces)

    @property
    def plain(self) -> bool:
        """Nothing but text."""
        return self.tool is None and not self.reasoning

    @property
    def thoughts(self) -> str:
        return "".join(self.pieces[: self.reasoning])

    @property
    def content(self) -> str:
        return "".join(self.pieces[self.reasoning :])


THOUGHTS = 12


def plan(ask: Ask, prompt: bytes, index: int, room: int, seed: int) -> Plan:
    """The answer for choice ``index``, at most ``room`` tokens long."""
    origin = text.digest(prompt, seed) + index * 7919
    limit = room if ask.limit is None else min(ask.limit, room)
    structured = _structured(ask)
    if structured is None and not ask.stop and not ask.reasons:
        length = min(limit, 24 + origin % 40) if ask.limit is None else limit
        words, quoted = text.prose(origin, length)
        return Plan(words, quoted, "stop" if ask.limit is None and length < limit else "length")
    thoughts = text.prose(origin + 31, THOUGHTS)[0] if ask.reasons else []
    if structured is None:
        rest = 24 + origin % 40 if ask.limit is None else max(0, limit - len(thoughts))
        body, finish = text.prose(origin, rest)[0], "stop" if ask.limit is None else "length"
    else:
        body, finish = text.pieces(structured), "stop"
    return _cut(ask, thoughts, body, finish, limit)


def _cut(ask: Ask, thoughts: list[str], body: list[str], finish: str, limit: int) -> Plan:
    matched = None
    if ask.stop and ask.tool is None:
        body, matched = _stopped(body, ask.stop)
        finish = "stop" if matched is not None else finish
    whole = thoughts + body
    if len(whole) > limit:
        whole, finish, matched = whole[:limit], "length", None
    tool = ask.tool["name"] if ask.tool is not None and len(whole) > len(thoughts) else None
    quoted = [msgspec.json.encode(piece) for piece in whole]
    return Plan(whole, quoted, finish, matched, min(len(thoughts), len(whole)), tool)


def _stopped(body: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    """Cut before the first stop string. The token that completes it is counted, what it shows is cut."""
    joined = "".join(body)
    found = min(((at, stop) for stop in stops if stop and (at := joined.find(stop)) >= 0), default=None)
    if found is None:
        return body, None
    at, stop = found
    shown: list[str] = []
    position = 0
    for piece in body:
        shown.append(piece[: max(0, at - position)])
        position += len(piece)
        if position >= at + len(stop):
            break
    return shown, stop


def _structured(ask: Ask) -> str | None:
    if ask.tool is not None:
        return dump(example(ask.tool.get("parameters") or {}))
    if ask.schema is not None:
        return dump(example(ask.schema))
    return None


def dump(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def example(schema: Any, depth: int = 0, root: Any = None) -> Any:
    """A small value that fits a JSON schema: required members only, the first of every choice."""
    if not isinstance(schema, dict) or depth > 16:
        return None if schema is not True else {}
    root = root if root is not None else schema
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example(schema[key][0], depth + 1, root)
    if isinstance(schema.get("$ref"), str):
        return example(_resolve(schema["$ref"], root), depth + 1, root)
    kind = schema.get("type", "object" if "properties" in schema or depth == 0 else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, depth, root)


def _resolve(reference: str, root: Any) -> Any:
    node = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        node = node.get(part) if isinstance(node, dict) and part else node
    return node


def _of_type(kind: str, schema: dict[str, Any], depth: int, root: Any) -> Any:
    if kind == "object":
        members = schema.get("properties") or {}
        wanted = schema.get("required") or (list(members) if depth == 0 else [])
        return {name: example(members.get(name, {"type": "string"}), depth + 1, root) for name in wanted}
    if kind == "array":
        return [example(schema.get("items", {}), depth + 1, root) for _ in range(int(schema.get("minItems", 0)))]
    if kind == "string":
        return _string(schema)
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        value = low + ("exclusiveMinimum" in schema)
        return int(value) if kind == "integer" else float(value)
    return False if kind == "boolean" else None


def _string(schema: dict[str, Any]) -> str:
    formats = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "email": "a@example.com"}
    value = formats.get(schema.get("format", ""), "value")
    value = value.ljust(int(schema.get("minLength", 0)), "x")
    return value[: int(schema["maxLength"])] if "maxLength" in schema else value
