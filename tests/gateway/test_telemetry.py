import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import pytest
import trio
from prometheus_client import Metric
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families

from gateway.labels import label
from gateway.member import MemberStatistics
from gateway.meter import Record, Totals
from gateway.prefix import Holdings
from gateway.telemetry import Sources, Telemetry
from gateway.telemetry_genai import providers
from tools import generate_metrics

openmetrics: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
HOSTILE = ['a"b', "a\nb", "a\\", "\ud800", "\x00\x1b[2J", "\u2028", "}", "# EOF", "x" * 1_000_000, "", "é" * 300]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
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


def families(text: str, om: bool) -> list[Metric]:
    return list(openmetrics(text) if om else text_string_to_metric_families(text))


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
    totals.in_force(1.7e9)
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


def test_openmetrics_has_exemplars_for_who_asks() -> None:
    totals = busy()
    totals.finished(
        Record(model="llama", pool="main", operation=CHAT, ended=2.0, ttft_s=0.3, trace_id=TRACE, sampled=True)
    )
    text, content_type = trio.run(
        telemetry(totals, member("main", "a:1", "ready")).render, "application/openmetrics-text"
    )
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found = {
        sample.name: sample.exemplar.value
        for family in families(text.decode(), om=True)
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.labels == {"trace_id": TRACE}
    }
    assert found == {
        "infer_gateway_request_duration_seconds_bucket": 2.0,
        "infer_gateway_time_to_first_token_seconds_bucket": 0.3,
        "gen_ai_server_request_duration_seconds_bucket": 2.0,
        "gen_ai_server_time_to_first_token_seconds_bucket": 0.3,
    }


def test_what_failed_is_no_exemplar_of_what_went_well() -> None:
    totals = Totals()
    good = Record(model="m", pool="p", operation=CHAT, ended=1.0, trace_id=TRACE, sampled=True)
    totals.finished(good)
    totals.finished(msgspec.structs.replace(good, status=504, reason="upstream_timeout", ended=50.0))
    text, _ = trio.run(telemetry(totals).render, "application/openmetrics-text")
    shown = {
        (sample.labels["error_type"], sample.exemplar.value)
        for family in families(text.decode(), om=True)
        for sample in family.samples
        if sample.name == "gen_ai_server_request_duration_seconds_bucket" and sample.exemplar is not None
    }
    assert ("", 50.0) not in shown
    assert ("", 1.0) in shown


def test_what_was_scheduled_and_what_health_went_through_is_shown() -> None:
    samples = scrape(telemetry(busy(), member("main", "a:1", "slow-start")))
    assert samples[key("infer_gateway_endpoint_state", pool="main", endpoint="a:1", state="slow-start")] == 1
    assert samples[key("infer_gateway_failovers_total", pool="main", reason="upstream_error")] == 1
    assert samples[key("infer_gateway_scheduler_decisions_total", pool="main")] == 1
    assert samples[key("infer_gateway_scheduler_decision_seconds_bucket", pool="main", le="5e-05")] == 1
    assert samples[key("infer_gateway_scheduled_prompt_tokens_total", pool="main")] == 100
    assert samples[key("infer_gateway_scheduled_prefix_hit_tokens_total", pool="main")] == 40
    assert samples[key("infer_gateway_inter_token_latency_seconds_bucket", pool="main", le="0.02")] == 1
    assert samples[key("infer_gateway_ejections_total", pool="main", reason="slow")] == 2
    assert samples[key("infer_gateway_endpoint_changes_total", pool="main", change="recovered")] == 1
    assert samples[key("infer_gateway_scrapes_total", pool="main", outcome="failed")] == 3
    assert samples[key("infer_gateway_prefix_index_blocks", pool="main")] == 30
    assert key("infer_gateway_prefix_index_blocks", pool="idle") not in samples
    route = {"route": "", "pool": "main", "target": ""}
    assert samples[key("infer_gateway_route_requests_total", **route, outcome="ok")] == 1
    assert samples[key("infer_gateway_route_requests_total", **route, outcome="failed")] == 1
    assert samples[key("infer_gateway_requests_in_flight", protocol="http")] == 5
    assert samples[key("infer_gateway_streams", protocol="http")] == 3
    assert samples[key("infer_gateway_upstream_connections", state="idle")] == 6
    assert samples[key("infer_gateway_config_generation")] == 1
    since = samples[key("infer_gateway_config_last_success_timestamp_seconds")]
    assert since == 1.7e9


def test_names_of_the_conventions_for_generative_ai() -> None:
    totals = busy()
    totals.finished(Record(model="m", pool="public", operation="/v1/responses", ended=1.0))
    totals.finished(Record(model="m", pool="mixed", operation="/tokenize", ended=1.0))
    fleet = (member("main", "a:1", "ready"), member("public", "b:1", "ready", engine="Gemini"))
    samples = scrape(telemetry(totals, *fleet))
    ours = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "vllm", "gen_ai_request_model": "llama"}
    name = "gen_ai_server_request_duration_seconds"
    assert samples[key(f"{name}_count", **ours, error_type="")] == 1
    assert samples[key(f"{name}_sum", **ours, error_type="")] == 3
    assert samples[key(f"{name}_count", **ours, error_type="no_endpoints")] == 1
    assert samples[key("gen_ai_server_time_to_first_token_seconds_sum", **ours)] == 1
    assert samples[key("gen_ai_server_time_per_output_token_seconds_sum", **ours)] == 0.5
    assert samples[key("gen_ai_client_token_usage_bucket", **ours, gen_ai_token_type="input", le="256.0")] == 1
    assert samples[key("gen_ai_client_token_usage_sum", **ours, gen_ai_token_type="output")] == 5
    unknown = {**ours, "gen_ai_provider_name": "infer_gateway", "gen_ai_request_model": ""}
    assert samples[key(f"{name}_count", **unknown, error_type="model_not_found")] == 1
    gemini = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "gcp.gemini", "gen_ai_request_model": "m"}
    assert samples[key(f"{name}_count", **gemini, error_type="")] == 1
    assert not [labels for _, labels in samples if ("gen_ai_operation_name", "tokenize") in labels]


def test_engines_that_differ_are_no_one_provider() -> None:
    fleet = (member("a", "a:1", "ready"), member("a", "b:1", "ready", engine="sglang"), member("b", "c:1", "ready"))
    assert providers(fleet) == {"a": "_OTHER", "b": "vllm"}


def hostile() -> Telemetry:
    totals = Totals(max_flows=20)
    for name in HOSTILE:
        for other in HOSTILE[:3]:
            record = Record(
                model=name, pool=other, route=name, target=other, tenant=name, tier=other, operation=CHAT, reason=name,
                protocol=name, queue_s=0.1, ttft_s=0.1, ended=1.0, tokens_in=3, trace_id=TRACE, sampled=True, user=name,
            )  # fmt: skip
            totals.finished(record)
        totals.attempted(name, name, name)
        totals.turned_away(name, name, name)
        totals.failed_over(name, name)
        totals.limited(name)
        totals.rewrote(name, name, name)
        totals.decided(name, 0.1, 1.0, 0.5)
        totals.gaps(name).observe(0.1)
        totals.restarts[name] = totals.strangers[name] = 1
    return telemetry(totals, *(member(name, name, name, engine=name) for name in HOSTILE))


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_hostile_names_leave_a_page_that_can_be_read(accept: str) -> None:
    text, _ = trio.run(hostile().render, accept)
    found = families(text.decode(), om=bool(accept))
    samples = [(s.name, frozenset(s.labels.items())) for family in found for s in family.samples]
    assert len(samples) == len(set(samples)) > 500
    assert all(len(value) <= 256 and value.isprintable() for _, labels in samples for _, value in labels)
    assert len(text) < 3_000_000


@needs_promtool
@pytest.mark.parametrize("subject", ["busy", "hostile"])
def test_promtool_has_nothing_to_say(subject: str) -> None:
    shown = hostile() if subject == "hostile" else telemetry(busy(), member("main", "a:1", "ready", kv_usage=0.5))
    text, _ = trio.run(shown.render)
    assert PROMTOOL is not None
    said = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_every_family_that_is_declared_is_on_the_page() -> None:
    text, _ = trio.run(telemetry(busy()).render)
    shown = {line.split()[2].decode() for line in text.splitlines() if line.startswith(b"# TYPE")}
    assert shown == {family.name for _, declared in generate_metrics.sections() for family in declared}
