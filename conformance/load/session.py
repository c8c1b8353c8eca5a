"""One run of the `bench` command: from its options to what was measured. (IO)

Invariant: Ctrl-C or SIGTERM ends the run and never loses what was measured.
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import ssl
from collections.abc import Callable

import msgspec
import trio

from . import progress
from .answers import Check, FullStreamCheck, QuickStreamCheck, WholeCheck
from .client import Address, Broken, Connection, resolve, tls_context
from .drive import Drive, Plan
from .measure import Window
from .workload import Target, Workload, message, messages


class Refused(Exception):
    """The run cannot start; the message says why."""


def _check_of(args: argparse.Namespace, workload: Workload) -> Callable[[], Check]:
    if not workload.streamed:
        return WholeCheck
    if args.check == "full":
        return lambda: FullStreamCheck(workload.api == "chat", workload.usage, args.expect_numbered)
    return QuickStreamCheck


async def reachable(addresses: list[Address]) -> Address:
    """The first address that accepts a connection; raises Refused."""
    last: Broken | None = None
    for address in addresses:
        connection = Connection(address, memoryview(bytearray(1)))
        try:
            await connection.open()
        except Broken as broken:
            last = broken
        else:
            connection.close()
            return address
    raise Refused(f"no connection: {last}")


async def first_model(target: Target, address: Address, api_key: str | None) -> str:
    """The first model that the server lists; raises Refused."""
    connection = Connection(address, memoryview(bytearray(65536)))
    parts: list[bytes] = []
    try:
        with trio.fail_after(30):
            await connection.exchange(message(target, "GET", "/models", api_key=api_key), parts.append)
        listing = msgspec.json.decode(b"".join(parts))
        return str(listing["data"][0]["id"])
    except (Broken, trio.TooSlowError, msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
        raise Refused(f"no model was named and {target.prefix}/models did not list one ({error!r})") from None
    finally:
        connection.close()


async def run(args: argparse.Namespace, plan: Plan) -> tuple[Drive, Window, Workload]:
    """Find the server and its model, then drive; raises Refused if there is no server or no model."""
    target: Target = args.url
    try:
        context = tls_context(insecure=args.insecure, ca_file=args.ca_file) if target.tls else None
        address = await reachable(await resolve(target.host, target.port, context))
    except (Broken, OSError, ssl.SSLError) as error:
        raise Refused(str(error)) from None
    workload = Workload(
        model=args.model or await first_model(target, address, args.api_key),
        api=args.api,
        stream=args.stream,
        prompt_tokens=args.prompt_tokens,
        max_tokens=args.max_tokens,
        usage=args.usage,
        api_key=args.api_key,
        extra=args.extra,
    )
    chance = random.Random(args.seed)
    sent = messages(target, workload, chance)
    drive = Drive(plan, address, sent, _check_of(args, workload), chance)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_interrupt, drive)
        if progress.wanted(args.no_progress):
            nursery.start_soon(progress.show, drive)
        gc.freeze()  # what is loaded by now stays: collections during the run need not walk it
        window = await drive.run()
        nursery.cancel_scope.cancel()
    return drive, window, workload


async def _stop_on_interrupt(drive: Drive) -> None:
    """Ctrl-C or SIGTERM ends the run; what was measured is still reported. A second one ends the process."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            drive.stop()
            return
