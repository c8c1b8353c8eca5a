"""Signals to a successor that is not needed yet: nobody has come to it, so that nobody is waited for."""

from __future__ import annotations

import os
import signal
from typing import Any, cast

import pytest
import trio

from gateway.core import Gateway
from gateway.doors import Doors
from gateway.life import Life


class Parts:
    def __init__(self) -> None:
        self.draining = False
        self.gateway = cast(Gateway, None)

    @property
    def settings(self) -> Any:
        raise AssertionError("there is nothing to drain")

    def ready(self) -> bool:
        return False

    def reload(self) -> bool:
        return False


class Closed(Doors):
    """Doors that have not been opened, and are not to be."""

    def sockets(self) -> Any:
        raise AssertionError("they are not ours to hand over")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_waits_for_its_turn_ends_at_once(number: signal.Signals) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                nursery.cancel_scope.cancel()

            life = Life(Parts(), Closed(), end)
            life.serves = False
            await nursery.start(life.run)
            os.kill(os.getpid(), number)
            with trio.fail_after(20):
                await trio.sleep_forever()

    trio.run(main)


def test_one_that_waits_for_its_turn_starts_none_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            life = Life(Parts(), Closed(), trio.sleep_forever)
            life.serves = False
            await nursery.start(life.run)
            os.kill(os.getpid(), signal.SIGUSR2)
            with trio.fail_after(20):
                while not caplog.records:  # noqa: ASYNC110 — nobody tells
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert "not its turn yet" in caplog.text
