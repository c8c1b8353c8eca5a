from __future__ import annotations

import json
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocols.extproc.restore import Restorer

TOKENS = [b'"model"', b":", b" ", b'"eng/ine"', b'"eng', b'/ine"', b'"', b"\\", b'\\"model\\":\\"eng/ine\\"', b"\n\n"]
WHOLE = [b'"model":"eng/ine"', b'"model": "eng/ine"', b'"model":"eng/ine2"', b"data: ", b"{", b"}"]
PARTS = st.sampled_from([*TOKENS, *WHOLE])


@given(st.lists(PARTS, max_size=12), st.lists(st.integers(0, 200), max_size=6))
def test_any_cut_gives_the_same(parts: list[bytes], cuts: list[int]) -> None:
    answer = b"".join(parts)
    restorer = Restorer("eng/ine", "asked \\1")
    edges = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    got = b"".join(restorer.feed(answer[a:b]) for a, b in pairwise(edges)) + restorer.finish()
    name = json.dumps("asked \\1").encode()
    assert got == re.sub(rb'("model": ?)"eng/ine"', lambda match: match.group(1) + name, answer)


def test_nothing_of_an_event_waits() -> None:
    restorer = Restorer("m-1", "m")
    event = b'data: {"id":"x","model":"m-1","choices":[{"delta":{"content":"\\"model\\":\\"m-1\\""}}]}\n\n'
    assert restorer.feed(event) == event.replace(b'"model":"m-1"', b'"model":"m"', 1)
    assert restorer.finish() == b""


def test_what_needs_nothing_is_passed_on_as_it_is() -> None:
    data = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
    assert Restorer("m-1", "m").feed(data) is data
