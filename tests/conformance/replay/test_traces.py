"""Every kind of trace becomes the same kind of value, and its text shares exactly what its blocks say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.engines.text import count
from conformance.replay.traces import Request, Trace, read

MOONCAKE = b"""\
{"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [7, 8]}
{"timestamp": 0, "input_length": 513, "output_length": 0, "hash_ids": [7, 9]}
"""


def test_mooncake() -> None:
    trace = read("t.jsonl", MOONCAKE)
    assert trace.block == 512
    assert [(r.index, r.at, r.prompt, r.output, r.blocks) for r in trace.requests] == [
        (0, 0.0, 513, 1, (7, 9)),
        (1, 3.0, 700, 5, (7, 8)),
    ]
    assert trace.has_reuse()
    assert (trace.full_blocks(), trace.longest()) == (1, 705)


def test_bailian_counts_in_seconds_and_small_blocks() -> None:
    row = b'{"chat_id": 1, "timestamp": 61.5, "input_length": 20, "output_length": 3, "hash_ids": [1, 2]}\n'
    trace = read("t", row + row.replace(b"61.5", b"62.0"))
    assert (trace.block, [r.at for r in trace.requests]) == (16, [0.0, 0.5])
    assert read("t", row, block=32).requests[0].blocks == (1,)


@pytest.mark.parametrize(
    "table",
    [
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
        b"2023-11-16 18:17:03.9799600,600,10\n2023-11-16 18:17:04.0319600,30,8\n",
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
        b"2024-05-10 00:00:00.100000+00:00,600,10\n2024-05-10 00:00:00.152+00:00,30,8\n",
        b"t_s,client,input_tokens,output_tokens\n7,a,600,10\n7.052,b,30,8\n",
        b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,x,600,10,610,y\n5.052,x,30,8,38,y\n",
    ],
)
def test_tables_say_nothing_of_contents(table: bytes) -> None:
    trace = read("t.csv", table)
    first, second = trace.requests
    assert (first.prompt, first.output, second.prompt, second.output) == (600, 10, 30, 8)
    assert (first.at, second.at) == (0.0, pytest.approx(0.052, abs=1e-6))
    assert not trace.has_reuse()
    assert (len(first.blocks), len(second.blocks)) == (2, 1)
    assert len({*first.blocks, *second.blocks}) == 3


def test_a_client_is_kept() -> None:
    assert read("t.csv", b"t_s,client,input_tokens,output_tokens\n0,9,1,1\n").requests[0].client == "9"


def test_missing_ids_are_nobody_elses_and_superfluous_ones_dropped() -> None:
    rows = b"".join(
        b'{"timestamp": 0, "input_length": %d, "output_length": 1, "hash_ids": %s}\n' % row
        for row in ((1100, b"[4]"), (1100, b"[4, 5, 6, 7]"), (1100, b"null"))
    )
    blocks = [request.blocks for request in read("t", rows).requests]
    assert [len(each) for each in blocks] == [3, 3, 3]
    assert (blocks[0][0], blocks[1]) == (4, (4, 5, 6))
    assert len({*blocks[0], *blocks[1], *blocks[2]}) == 8


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "t is empty"),
        (b"hello\n", "t is no trace of a known kind"),
        (b"a,b\n1,2\n", "t: none of its columns a, b is one of timestamp, t_s"),
        (b"time,input_tokens\n1,2\n", "is one of generatedtokens"),
        (b"time,input_tokens,output_tokens\n1,x,2\n", "t, line 2: "),
        (b"time,input_tokens,output_tokens\n1,5\n", "t, line 2: "),
        (b"time,input_tokens,output_tokens\n", "t holds no request"),
        (b'{"timestamp": 1}\n', 't, line 1: a number under "input_length" is missing'),
        (MOONCAKE + b"{]\n", "t, line 3: "),
    ],
)
def test_what_cannot_be_read_is_told(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        read("t", data)


def test_without_reuse_only_the_blocks_differ() -> None:
    trace = read("t.jsonl", MOONCAKE)
    fresh = trace.without_reuse()
    assert not fresh.has_reuse()
    assert [(r.at, r.prompt, r.output, len(r.blocks)) for r in fresh.requests] == [
        (r.at, r.prompt, r.output, len(r.blocks)) for r in trace.requests
    ]


@given(
    st.sampled_from([4, 16, 512]),
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=5),
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=5),
    st.data(),
)
def test_texts_share_exactly_the_blocks_that_ids_share(
    block: int, one: list[int], other: list[int], data: st.DataObject
) -> None:
    trace = Trace("t", block, ())
    lengths = [data.draw(st.integers((len(ids) - 1) * block + 1, len(ids) * block)) for ids in (one, other)]
    texts = [
        trace.text(Request(0, 0.0, length, 1, tuple(ids))) for length, ids in zip(lengths, (one, other), strict=True)
    ]
    assert [count(text.encode()) for text in texts] == lengths
    shared = min(lengths) // block
    common = next((i for i in range(shared) if one[i] != other[i]), shared)
    width = 4 * block
    assert texts[0][: common * width] == texts[1][: common * width]
    if common < shared:
        start = common * width
        assert texts[0][start : start + width] != texts[1][start : start + width]
