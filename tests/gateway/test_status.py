"""What operators are shown of a gateway's pools. (P)"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from gateway.config.settings import Settings
from gateway.status import Parts, Status
from tests.gateway.test_gate import Door, Place


def full(gate: object) -> float:
    """How full a pool without engines' own queues is, as it is told."""
    member: Any = SimpleNamespace(id="a", foreign=0.0, inflight=0, load=None, pending=0, unseen=0)
    pools = {"p": SimpleNamespace(members=[member], gate=gate)}
    parts = SimpleNamespace(
        snapshot=SimpleNamespace(settings=Settings()), pools=SimpleNamespace(by_name=lambda: pools.items())
    )
    ((name, level),) = Status(cast(Parts, parts)).saturation()
    assert name == "p"
    return level


def test_a_pool_is_as_full_as_its_slots_where_requests_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio, "current_time", lambda: 0.0)
    door = Door(Place(slots=2))
    assert full(None) == full(door.gate) == 0.0
    for _ in range(3):
        door.come("x")
    assert full(door.gate) == 1.5
