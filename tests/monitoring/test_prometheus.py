"""Every query of the dashboards and every rule, as a Prometheus answers them that scrapes a gateway at work. (IO)"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.monitoring.papers import RULES, dashboards, queries, rules
from tests.monitoring.prometheus import Prometheus, needs_prometheus, prometheus
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.envoy import unused_address
from tests.whole.fleet import CHAT, pool, settings, written

pytestmark = needs_prometheus
WHO = ("ann", "bob")
KEYS = [
    {"name": who, "keySha256": hashlib.sha256(f"sk-{who}".encode()).hexdigest(), "tenant": f"{who}s", "tier": "gold"}
    for who in WHO
]
EMPTY = {
    "Alerts": "nothing fires",
    "Configuration changed": "it did not",
    "Set aside": "no endpoint failed often enough",
    "Other changes of health": "there are none",
    "Restarts of tasks": "none failed",
    **dict.fromkeys(("Shared store", "Decided alone"), "there is no shared store"),
    "Other replicas heard": "replicas meet where there is a store or a cluster",
    **dict.fromkeys(("Watches", "Objects known", "Changes", "Watches begun anew"), "there is no cluster"),
    **dict.fromkeys(("Statuses written", "Who leads"), "there is no cluster"),
}
"""Panels that may show nothing here, and why."""


def ask(gateway: InferGateway, number: int) -> int:
    """One request of many kinds: streams and whole answers, of two tenants and of nobody, too many of one of them."""
    who = ("ann", "bob", "ann", "nobody")[number % 4]
    body = {"model": "m", "stream": number % 2 == 0, "max_tokens": 20}
    body |= {"messages": [{"role": "user", "content": f"{'the same words again ' * 40}{number}"}]}
    answer = raw.exchange(gateway.address, raw.post(CHAT, body, f"authorization: Bearer sk-{who}"))
    assert answer is not None
    return answer.status


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Of a gateway under load: engines that work, one that does not, callers that are refused in each way."""
    folder = tmp_path_factory.mktemp("prometheus")
    engines = [simulate("vllm", "m", "--itl", "0.005", "--max-running", "4") for _ in range(2)]
    engines.append(simulate("vllm", "m", "--itl", "0.005", "--fail", "503@every=3"))
    sections = {
        "auth": {"apiKeys": KEYS},
        "fairness": {"enabled": True, "maxConcurrent": 4, "maxQueued": 6},
        "tracing": {"endpoint": f"http://{unused_address()}"},
        "limits": [{"match": {"user": "bob"}, "requestsPerMinute": 3}],
    }
    with ExitStack() as stack:
        stack.enter_context(together(*engines))
        gateway = stack.enter_context(serve("-c", written(folder, pool("m", engines), settings(**sections))))
        found = stack.enter_context(prometheus(folder, RULES, gateway.ready["admin"]))
        threads = stack.enter_context(ThreadPoolExecutor(16))
        codes: set[int] = set()
        deadline = time.monotonic() + 120
        while not enough(found):
            codes.update(threads.map(lambda number: ask(gateway, number), range(48)))
            assert time.monotonic() < deadline
        assert codes == {200, 401, 429, 503}
        yield found


def enough(found: Prometheus) -> bool:
    """Whether rules have been evaluated on two scrapes of a gateway that had served."""
    return (found.value("count_over_time(job:infer_gateway_failures:ratio_rate1h[1m])") or 0) >= 3


@pytest.mark.parametrize("uid", dashboards())
def test_every_query_of_a_dashboard_is_answered(seen: Prometheus, uid: str) -> None:
    now = time.time()
    blank = []
    for title, target, expr in queries(dashboards()[uid]):
        if target["range"]:
            data = seen.get("query_range", query=expr, start=now - 60, end=now + 1, step=1)
        else:
            data = seen.get("query", query=expr)
        shown = [series for series in data["result"] if any(value != "NaN" for _, value in points(series))]
        if not shown and re.sub(r"^.*?: | [A-Z]$", "", title) not in EMPTY:
            blank.append(title)
    assert not blank


def points(series: dict) -> list[tuple[float, str]]:
    return series["values"] if "values" in series else [series["value"]]


def test_every_rule_is_evaluated(seen: Prometheus) -> None:
    def told() -> list[dict]:
        return [rule for group in seen.get("rules")["groups"] for rule in group["rules"]]

    assert eventually(lambda: all(rule["health"] != "unknown" for rule in told()))
    assert {rule["name"]: rule["health"] for rule in told()} == {
        rule.get("alert") or rule["record"]: "ok" for rule in rules()
    }
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    assert [name for name in recorded if seen.value(name) is None] == []


def test_what_is_scraped_is_what_is_documented(seen: Prometheus) -> None:
    names = {name for name in seen.get("label/__name__/values") if name.startswith("infer_gateway_")}
    assert len(names) > 30
    types = seen.get("metadata")
    assert all(types[name.removesuffix("_total")][0]["help"] for name in types if name.startswith("infer_gateway"))


def test_points_of_latency_lead_to_traces(seen: Prometheus) -> None:
    asked = {
        "query": "infer_gateway_time_to_first_token_seconds_bucket",
        "start": time.time() - 300,
        "end": time.time(),
    }
    (series, *_) = seen.get("query_exemplars", **asked)
    assert re.fullmatch(r"[0-9a-f]{32}", series["exemplars"][0]["labels"]["trace_id"])
