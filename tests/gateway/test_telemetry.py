import os
import subprocess
import sys
from typing import NamedTuple

import trio
from prometheus_client.parser import text_string_to_metric_families

from gateway.labels import label
from gateway.member import MemberStatistics
from gateway.meter import Record, Totals
from gateway.prefix import Holdings
from gateway.telemetry import Sources, Telemetry

CHAT = "/v1/chat/completions"


def member(
    pool: str, endpoint: str, state: str, inflight: int = 0, kv_usage: float | None = None, engine: str = "vllm"
) -> MemberStatistics:
    return MemberStatistics(pool, endpoint, engine, state, inflight, 0, 0, (), kv_usage=kv_usage)


class Waiting(NamedTuple):
    queued_bytes: int
    tiers: dict[str, int]


class Counted(NamedTuple):
    scrapes: int
    scrape_errors: int
    changes: dict[str, int]


class Shared(NamedTuple):
    connected: bool
    away: int
    fallbacks: int


def telemetry(totals: Totals, *members: MemberStatistics, store: Shared | None = None) -> Telemetry:
    return Telemetry(
        Sources(
            totals,
            "1.2.3",
            members=lambda: members,
            saturation=lambda: [("main", 0.5)],
            pools=lambda: [("main", Counted(70, 3, {"slow": 2, "recovered": 1}))],
            indexes=lambda: [("main", Holdings(2, 30, 7680)), ("idle", Holdings(0, 0, 0))],
            queues=lambda: {"main": Waiting(3000, {"gold": 2, "made up": 1, "as well": 4})},
            connections=lambda: {"http": 7},
            calls=lambda: {"http": (5, 3)},
            upstream=lambda: (4, 6, 100),
            lost=lambda: (4, 5, 6),
            store=lambda: store,
        )
    )


def scrape(subject: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by (name, labels)."""
    text, content_type = trio.run(subject.render)
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def key(name: str, /, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def busy() -> Totals:
    totals = Totals()
    totals.finished(
        Record(
            model="llama",
            pool="main",
            operation=CHAT,
            stream=True,
            ended=3.0,
            ttft_s=1.0,
            tokens_in=100,
            tokens_out=5,
            tokens_cached=25,
        )
    )
    totals.finished(Record(model="llama", pool="main", operation=CHAT, status=503, reason="no_endpoints", ended=0.001))
    totals.finished(Record(status=404, reason="model_not_found", operation=CHAT))
    totals.attempted("main", "a:1", "ok")
    totals.finished(Record(tenant="acme", tier="gold", pool="batch", queue_s=0.5, tokens_in=7, tokens_out=3))
    totals.limited("limits[0].requestsPerMinute")
    totals.rewrote("ns/r", "llama", "llama-2")
    totals.rewrote("ns/r", "", "llama-2")
    totals.strangers["expired"] = 1
    totals.reloaded(False)
    totals.restarts["source"] = 2
    totals.tiers = {"gold"}
    totals.turned_away("main", "gold", "queue_full")
    totals.failed_over("main", "upstream_error")
    totals.decided("main", 3e-5, 100.0, 40.0)
    totals.gaps("main").observe(0.02)
    totals.in_force(0.0)
    return totals


def test_requests_tokens_and_times_are_shown() -> None:
    samples = scrape(telemetry(busy()))
    flow = {"model": "llama", "pool": "main", "operation": CHAT, "protocol": "http"}
    assert samples[key("infer_gateway_requests_total", **flow, code="200", reason="")] == 1
    assert samples[key("infer_gateway_requests_total", **flow, code="503", reason="no_endpoints")] == 1
    unknown = {"model": "unknown", "pool": "", "operation": CHAT, "protocol": "http"}
    assert samples[key("infer_gateway_requests_total", **unknown, code="404", reason="model_not_found")] == 1
    assert samples[key("infer_gateway_tokens_total", **flow, direction="input")] == 100
    assert samples[key("infer_gateway_tokens_total", **flow, direction="output")] == 5
    assert samples[key("infer_gateway_prompt_cached_tokens_total", **flow)] == 25
    assert samples[key("infer_gateway_request_duration_seconds_bucket", **flow, le="0.005")] == 1
    assert samples[key("infer_gateway_request_duration_seconds_bucket", **flow, le="5.0")] == 2
    assert samples[key("infer_gateway_request_duration_seconds_count", **flow)] == 2
    assert samples[key("infer_gateway_request_duration_seconds_sum", **flow)] == 3.001
    assert samples[key("infer_gateway_time_to_first_token_seconds_bucket", **flow, le="1.0")] == 1
    assert samples[key("infer_gateway_time_per_output_token_seconds_sum", **flow)] == 0.5
    assert samples[key("infer_gateway_attempts_total", pool="main", endpoint="a:1", outcome="ok")] == 1
    assert key("infer_gateway_time_to_first_token_seconds_count", **unknown) not in samples


def test_gauges_are_read_at_the_scrape() -> None:
    samples = scrape(telemetry(busy(), member("main", "a:1", "ready", 3), member("main", "b:1", "down")))
    assert samples[key("infer_gateway_endpoint_up", pool="main", endpoint="a:1")] == 1
    assert samples[key("infer_gateway_endpoint_up", pool="main", endpoint="b:1")] == 0
    assert samples[key("infer_gateway_inflight_requests", pool="main", endpoint="a:1")] == 3
    assert key("infer_gateway_endpoint_kv_usage", pool="main", endpoint="a:1") not in samples
    assert samples[key("infer_gateway_pool_saturation", pool="main")] == 0.5
    assert samples[key("infer_gateway_connections", listener="http")] == 7
    assert samples[key("infer_gateway_config_reloads_total", result="failure")] == 1
    assert samples[key("infer_gateway_config_last_reload_successful")] == 0
    assert samples[key("infer_gateway_task_restarts_total", task="source")] == 2
    python = ".".join(map(str, sys.version_info[:3]))
    assert samples[key("infer_gateway_build_info", version="1.2.3", python=python)] == 1


def test_who_waits_who_uses_what_and_who_is_refused_is_shown() -> None:
    samples = scrape(telemetry(busy()))
    assert samples[key("infer_gateway_queue_wait_seconds_bucket", pool="batch", tier="other", le="0.25")] == 0
    assert samples[key("infer_gateway_queue_wait_seconds_bucket", pool="batch", tier="other", le="0.5")] == 1
    depths = {
        tier: samples[key("infer_gateway_queue_requests", pool="main", tier=tier)] for tier in ("", "gold", "other")
    }
    assert depths == {"": 0, "gold": 2, "other": 5}
    assert samples[key("infer_gateway_queue_bytes", pool="main")] == 3000
    owner = {"tenant": "acme", "tier": "gold"}
    assert samples[key("infer_gateway_tenant_tokens_total", **owner, direction="input")] == 7
    assert samples[key("infer_gateway_tenant_tokens_total", **owner, direction="output")] == 3
    assert samples[key("infer_gateway_limit_refusals_total", limit="limits[0].requestsPerMinute")] == 1
    assert samples[key("infer_gateway_auth_refusals_total", reason="expired")] == 1
    assert samples[key("infer_gateway_admission_refusals_total", pool="main", tier="gold", why="queue_full")] == 1
    assert samples[key("infer_gateway_usage_events_lost_total")] == 4
    assert samples[key("infer_gateway_access_log_lines_lost_total")] == 5
    assert samples[key("infer_gateway_traces_lost_total")] == 6


def test_a_shared_store_is_shown_where_there_is_one() -> None:
    samples = scrape(telemetry(busy(), store=Shared(False, 2, 30)))
    assert samples[key("infer_gateway_store_connected")] == 0
    assert samples[key("infer_gateway_store_away_total")] == 2
    assert samples[key("infer_gateway_store_fallbacks_total")] == 30
    assert key("infer_gateway_store_connected") not in scrape(telemetry(busy()))


def test_names_that_dashboards_know() -> None:
    fleet = (
        member("main", "a:1", "ready", kv_usage=0.25),
        member("main", "b:1", "unknown", kv_usage=0.5),
        member("main", "c:1", "draining"),
        member("idle", "d:1", "open"),
    )
    samples = scrape(telemetry(busy(), *fleet))
    assert samples[key("inference_pool_ready_pods", name="main")] == 2
    assert samples[key("inference_pool_ready_pods", name="idle")] == 0
    assert samples[key("inference_pool_average_kv_cache_utilization", name="main")] == 0.375
    assert key("inference_pool_average_kv_cache_utilization", name="idle") not in samples
    assert samples[key("infer_gateway_endpoint_kv_usage", pool="main", endpoint="b:1")] == 0.5
    assert samples[key("inference_pool_prefix_cache_hit_ratio", name="main")] == 0.25
    assert key("inference_pool_prefix_cache_hit_ratio", name="idle") not in samples
    assert samples[key("inference_model_request_total", model_name="llama")] == 2
    assert samples[key("inference_model_request_duration_seconds_count", model_name="llama")] == 2
    assert key("inference_model_request_total", model_name="unknown") not in samples
    assert scrape(telemetry(busy()))[key("inference_pool_ready_pods", name="main")] == 0  # there, and empty


def test_rewrites_are_counted_by_both_names() -> None:
    samples = scrape(telemetry(busy()))
    for model in ("llama", "unknown"):
        ours = {"rewrite": "ns/r", "model": model, "target": "llama-2"}
        assert samples[key("infer_gateway_model_rewrites_total", **ours)] == 1
        theirs = {"model_rewrite_name": "r", "model_name": model, "target_model": "llama-2"}
        assert samples[key("inference_extension_model_rewrite_decisions_total", **theirs)] == 1


def test_a_large_exposition_names_each_family_once() -> None:
    totals = Totals()
    for index in range(60):
        totals.finished(Record(model=f'm"{index}\n', operation=CHAT, ended=1.0))
    text, _ = trio.run(telemetry(totals).render)
    types = [line for line in text.splitlines() if line.startswith(b"# TYPE")]
    assert len(types) == len(set(types))
    samples = scrape(telemetry(totals))
    for index in range(60):
        labels = {"model": label(f'm"{index}\n'), "pool": "", "operation": CHAT, "protocol": "http"}
        assert samples[key("infer_gateway_request_duration_seconds_count", **labels)] == 1


def test_rendering_lets_other_tasks_run() -> None:
    totals = Totals()
    for index in range(60):
        totals.finished(Record(model=str(index), ended=1.0))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await telemetry(totals).render()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns > 20


def test_counting_does_not_import_prometheus_client() -> None:
    code = "import gateway.meter, gateway.supervise, sys; sys.exit('prometheus_client' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, env=environment)
