"""The listener that a proxy is behind: its clients come and go, and that is nobody's abuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from grpc_health.v1.health_pb2 import HealthCheckRequest

from gateway.config.settings import ExtProcListener
from gateway.config.snapshot import PoolSpec
from gateway.listen import close_listeners, open_listeners
from gateway.net import connect
from gateway.picker_door import Picker, picker_doors
from gateway.wire.grpc import Code, framed
from protocols.extproc.serve import METHOD
from tests.gateway.scripted import World, run
from tests.protocols.grpc.rig import Client

CORE: Any = SimpleNamespace(known=None, identify=None, ready=lambda: True, refused=None, gateway=None)


def test_all_clients_of_a_proxy_may_hang_up_at_once() -> None:
    async def main() -> None:
        listeners = [await open_listeners("127.0.0.1", 0, None) for _ in range(2)]
        doors = picker_doors(CORE, ExtProcListener(), *listeners)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(doors["ext_proc"].run)
                client = Client(await connect("127.0.0.1", listeners[0][0].address[1]))
                await client.start()
                for _ in range(3):
                    streams = [client.open(METHOD) for _ in range(700)]
                    await client.flush()
                    for stream_id in streams:
                        client.h2.reset_stream(stream_id, 8)
                    await client.flush()
                stream_id = client.open("/grpc.health.v1.Health/Check")
                await client.send(stream_id, framed(HealthCheckRequest().SerializeToString()), end=True)
                assert (await client.answer(stream_id)).status is Code.OK
                client.stream.close()
                close_listeners(listeners[1])
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_picker_is_ready_once_it_knows_its_pool_be_it_empty() -> None:
    async def scenario() -> None:
        world = World({})
        core: Any = SimpleNamespace(
            known=None, identify=None, gateway=world.gateway, namespace="ns", ready=lambda: False, synced=lambda: True
        )
        of_one, of_another, of_all = (Picker(core, 0, pool) for pool in ("one", "ns/another", None))
        assert [each.pool for each in (of_one, of_another, of_all)] == ["ns/one", "ns/another", None]
        world.pools.apply([PoolSpec("other/one", "fake")])
        assert not any(each.ready() for each in (of_one, of_another, of_all))
        world.pools.apply([PoolSpec("ns/one", "fake", bare=True)])
        assert [each.ready() for each in (of_one, of_another, of_all)] == [True, False, True]
        core.synced = lambda: False
        assert not of_one.ready()
        assert not of_all.ready()
        core.ready = lambda: True
        assert of_all.ready()
        world.pools.apply([])
        core.synced = lambda: True
        assert not of_one.ready()

    run(scenario)
