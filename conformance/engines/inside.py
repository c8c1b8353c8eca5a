"""What is the simulator's and not the engine's: the faults it was told to have, and what it shows of itself. (T)"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from conformance.engines.faults import BREAKS, Fault, Faults

if TYPE_CHECKING:
    from conformance.engines.call import Call
    from conformance.engines.engine import Engine


async def strike(engine: Engine, call: Call) -> bool:
    """Note the request and apply its fault. True if that was the answer; Refusal if it is one."""
    request = call.exchange.request
    inference = request.method == b"POST" and engine.inference(call.path)
    if inference:
        engine.requests += 1
        engine.last = {
            "method": request.method.decode(),
            "path": call.path,
            "headers": {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers},
            "body": call.body.decode(errors="replace"),
        }
    if not engine.faults.rules:
        return False
    fault = call.fault = engine.faults.strike(call.path, _model(call.body, engine.faults), inference)
    if fault is None or fault.kind in BREAKS:
        return False
    return await _fail(engine, call, fault)


async def _fail(engine: Engine, call: Call, fault: Fault) -> bool:
    exchange = call.exchange
    if fault.kind == "slow":
        await trio.sleep(fault.number)
        return False
    if fault.kind == "hang":
        await trio.sleep_forever()
    elif fault.kind == "status":
        raise engine.failing(int(fault.number), fault.retry_after)
    elif fault.word == "http":
        await exchange.start(200, ((b"content-length", b"plenty"),))
        await exchange.send(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
        exchange.abort()
    elif fault.kind == "rubbish":
        sse = fault.word == "sse"
        body = b"data: {this is not JSON\n\n" if sse else b"<html>this is not JSON</html>"
        kind = b"text/event-stream" if sse else engine.json_type
        await exchange.respond(200, ((b"content-type", kind),), body)
    else:
        exchange.abort()
    return True


def _model(body: bytes, faults: Faults) -> str:
    """The model a request names, read only if some fault asks."""
    if not any(rule.model for rule in faults.rules):
        return ""
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    return str(fields.get("model", "")) if isinstance(fields, dict) else ""


def state(engine: Engine) -> dict[str, Any]:
    """The answer of ``GET /sim/state``."""
    batch, statistics = engine.model.batch, engine.model.statistics
    return {
        "engine": engine.kind,
        "version": engine.version,
        "running": len(batch.running),
        "waiting": len(batch.waiting),
        "requests": engine.requests,
        "finished": statistics.finished.total(),
        "aborted": statistics.aborted,
        "refused": statistics.refused,
        "preemptions": batch.preemptions,
        "generated_tokens": statistics.generated.total(),
        "kv": {"blocks": batch.pool.capacity, "used": batch.pool.used, "kept": batch.pool.kept},
        "loras": sorted(engine.loras),
        "rate_limits": _rates(engine),
        "fail": [rule.spec for rule in engine.faults.rules],
        "last": engine.last,
    }


def _rates(engine: Engine) -> dict[str, Any]:
    rates, now = engine.rates, trio.current_time()
    left = {n: {"limit": limit, "remaining": rates.remaining(n, now)} for n, limit in rates.limits.items()}
    return {**left, "reset_s": rates.reset(now)} if left else left
