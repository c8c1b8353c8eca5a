"""Public request traces as one kind of value: when a request came, how long it was, which blocks it began with. (P)

Invariant: a trace's requests are in order of arrival, the first at 0; two of them share ``n`` leading blocks of text
exactly if their first ``n`` block ids are equal.

Read are Mooncake's JSON lines (milliseconds, 512-token blocks), the same with seconds and 16-token blocks as Alibaba's
Bailian traces have them, and CSV tables with a time, a prompt length and an answer length under any of the names known
here (Azure LLM inference, BurstGPT, VTC): those say nothing of contents, so no two of their prompts share anything.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

TOKEN_BYTES = 4
"""As the simulated engines count."""
_BLOCK = 512
_COLUMNS = {
    "at": ("timestamp", "t_s", "arrived_at", "arrival_time", "time"),
    "prompt": ("contexttokens", "input_tokens", "request tokens", "input_length", "prompt_tokens",
               "num_prefill_tokens"),
    "output": ("generatedtokens", "output_tokens", "response tokens", "output_length", "completion_tokens",
               "num_decode_tokens"),
    "client": ("client", "user", "user_id"),
}  # fmt: skip


class Request(msgspec.Struct, frozen=True, gc=False):
    """``at`` in seconds from the trace's start; ``prompt`` and ``output`` in tokens, at least 1; ``blocks`` names the
    prompt's blocks in order, the last one maybe in part."""

    index: int
    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...]
    client: str = ""


class Trace(msgspec.Struct, frozen=True):
    """``block``: tokens that one block id stands for."""

    name: str
    block: int
    requests: tuple[Request, ...]

    def full_blocks(self) -> int:
        """Distinct blocks that can be reused: a block filled only in part cannot."""
        return len({block for request in self.requests for block in request.blocks[: request.prompt // self.block]})

    def has_reuse(self) -> bool:
        return self.full_blocks() < sum(request.prompt // self.block for request in self.requests)

    def longest(self) -> int:
        """Tokens of the longest request, prompt and answer together."""
        return max(request.prompt + request.output for request in self.requests)

    def first(self, count: int) -> Trace:
        """Its beginning: ``count`` requests at most."""
        return Trace(self.name, self.block, self.requests[:count])

    def without_reuse(self) -> Trace:
        """The same times and lengths, and nothing shared."""
        fresh = itertools.count()
        requests = (
            msgspec.structs.replace(request, blocks=tuple(itertools.islice(fresh, len(request.blocks))))
            for request in self.requests
        )
        return Trace(f"{self.name}, no reuse", self.block, tuple(requests))

    def text(self, request: Request) -> str:
        """A prompt of so many tokens, equal where blocks are equal. ASCII, so that bytes are characters."""
        width = self.block * TOKEN_BYTES
        repeats = -(-width // 16)
        return "".join([(f"{block:015x} " * repeats)[:width] for block in request.blocks])[
            : request.prompt * TOKEN_BYTES
        ]


def read(name: str, data: bytes, block: int | None = None) -> Trace:
    """The trace in a file's bytes; ``block`` overrides its tokens per block id. Raises ValueError for no known kind."""
    head = data.lstrip()[:1]
    if not head:
        raise ValueError(f"{name} is empty")
    if head == b"{":
        return _read_json(name, data, block)
    if b"," in data.split(b"\n", 1)[0]:
        return _made(name, block or _BLOCK, _table(name, data))
    raise ValueError(f"{name} is no trace of a known kind: expected JSON lines with hash_ids, or a CSV table")


def _read_json(name: str, data: bytes, block: int | None) -> Trace:
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    rows = [_object(name, number, line) for number, line in lines]
    bailian = "chat_id" in rows[0]
    unit = 1.0 if bailian else 0.001
    return _made(name, block or (16 if bailian else _BLOCK), (_row(row, unit) for row in rows))


def _object(name: str, number: int, line: bytes) -> Mapping[str, Any]:
    try:
        row = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"{name}, line {number}: {error}") from None
    for field in ("timestamp", "input_length", "output_length"):
        if not isinstance(row.get(field), (int, float)):
            raise ValueError(f'{name}, line {number}: a number under "{field}" is missing')
    return row


Row = tuple[float, int, int, tuple[int, ...], str]


def _row(row: Mapping[str, Any], unit: float) -> Row:
    ids = tuple(row.get("hash_ids") or ())
    return row["timestamp"] * unit, int(row["input_length"]), int(row["output_length"]), ids, ""


def _table(name: str, data: bytes) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
    known = {column.strip().lower(): column for column in reader.fieldnames or ()}
    columns = {what: next((known[n] for n in names if n in known), None) for what, names in _COLUMNS.items()}
    at, prompt, output, client = (columns[what] for what in ("at", "prompt", "output", "client"))
    if at is None or prompt is None or output is None:
        missing = next(what for what in ("at", "prompt", "output") if columns[what] is None)
        names = ", ".join(_COLUMNS[missing])
        raise ValueError(f"{name}: none of its columns {', '.join(known)} is one of {names}")
    for number, row in enumerate(reader, 2):
        try:
            yield _seconds(row[at]), int(row[prompt]), int(row[output]), (), str(row[client]) if client else ""
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}, line {number}: {error}") from None


def _seconds(text: str) -> float:
    """Seconds as a number, or a date and time with any number of decimals."""
    try:
        return float(text)
    except ValueError:
        whole, _, fraction = text.strip().partition(".")
        digits = len(fraction) - len(fraction.lstrip("0123456789"))
        return datetime.fromisoformat(whole + fraction[digits:]).timestamp() + float("0." + (fraction[:digits] or "0"))


def _made(name: str, block: int, rows: Iterable[Row]) -> Trace:
    ordered = sorted(rows, key=lambda row: row[0])
    if not ordered:
        raise ValueError(f"{name} holds no request")
    start = ordered[0][0]
    fresh = itertools.count(1 + max((id for row in ordered for id in row[3]), default=-1))
    requests = []
    for index, (at, prompt, output, ids, client) in enumerate(ordered):
        prompt, output = max(1, prompt), max(1, output)
        count = -(-prompt // block)
        blocks = ids[:count] + tuple(itertools.islice(fresh, max(0, count - len(ids))))
        requests.append(Request(index, at - start, prompt, output, blocks, client))
    return Trace(name, block, tuple(requests))
