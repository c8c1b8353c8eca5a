"""What a request looks like to schedulers."""

from __future__ import annotations

import msgspec

from gateway.prefix import Blocks
from gateway.schedule.ask import Ask
from gateway.types import Operation
from tests.gateway.schedule.fleet import request


def test_counting_tokens_leaves_nothing_in_a_cache() -> None:
    text = "x" * 4000
    chat = Ask(request(text), "m", 0.0)
    assert (len(chat.text), chat.tokens) == (4000, 1000.0)
    assert len(chat.chain(Blocks())) == 15
    for operation in (Operation.TOKENIZE, Operation.DETOKENIZE, Operation.COUNT_TOKENS):
        counted = Ask(msgspec.structs.replace(request(text), operation=operation), "m", 0.0)
        assert (counted.tokens, counted.text, list(counted.chain(Blocks()))) == (1.0, b"", [])


def test_a_counted_prompt_is_as_long_as_counted_and_measured_by_its_own_ratio() -> None:
    ask = Ask(request("x" * 4000), "m", 0.0)
    ask.counted(2000)
    assert (ask.tokens, ask.bytes_per_token) == (2000.0, 2.0)
    ask.hits = {"a": len(ask.text) / ask.bytes_per_token - 1.0}
    assert ask.uncached("a") == 1.0
    empty = Ask(request(""), "m", 0.0)
    empty.counted(0)
    assert (empty.tokens, empty.bytes_per_token) == (1.0, 4.0)
