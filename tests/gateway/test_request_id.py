"""Request ids: the client's where they can go anywhere, others that never come twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request_id import RequestIds

PLAIN = re.compile(rb"[0-9A-Za-z._:-]{1,128}")


@given(st.one_of(st.binary(max_size=140), st.from_regex(rb"[0-9A-Za-z._:-]{1,130}", fullmatch=True)))
def test_ids_that_can_go_anywhere_are_kept_and_no_others(offered: bytes) -> None:
    found = RequestIds().of(offered)
    assert PLAIN.fullmatch(found.encode())
    assert (found == offered.decode("latin-1")) == (PLAIN.fullmatch(offered) is not None)


@pytest.mark.parametrize("missing", [None, b""])
def test_made_ids_differ(missing: bytes | None) -> None:
    one, other = RequestIds(), RequestIds()
    made = [one.of(missing), one.next(), other.of(missing), other.next()]
    assert len(set(made)) == len(made)
