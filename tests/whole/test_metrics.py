"""The page of metrics of a gateway at work: readable in both formats, a way to traces."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser

from tests.process import InferGateway, serve, simulate, together
from tests.whole import raw
from tests.whole.collector import collector
from tests.whole.fleet import CHAT, pool, settings, written

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
openmetrics: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families


def ask(gateway: InferGateway, *, stream: bool) -> int:
    body = {"model": "m", "stream": stream, "max_tokens": 5, "messages": [{"role": "user", "content": "hi " * 400}]}
    answer = raw.exchange(gateway.address, raw.post(CHAT, body, f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01"))
    assert answer is not None
    return answer.status


def page(gateway: InferGateway, *headers: str) -> raw.Answer:
    host, _, port = gateway.ready["admin"].rpartition(":")
    answer = raw.exchange((host, int(port)), raw.get("/metrics", "connection: close", *headers))
    assert answer is not None
    assert (answer.status, answer.whole) == (200, True)
    return answer


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    """One that has served and failed over, each request within a trace."""
    engines = [simulate("vllm", "m"), simulate("vllm", "m"), simulate("vllm", "m", "--fail", "503")]
    folder = tmp_path_factory.mktemp("metrics")
    with collector() as traces, together(*engines), ExitStack() as stack:
        sections = {"fairness": {"enabled": True}, "tracing": {"endpoint": traces.url, "sampleRatio": 0}}
        gateway = stack.enter_context(serve("-c", written(folder, pool("m", engines), settings(**sections))))
        for number in range(12):
            assert ask(gateway, stream=number % 2 == 0) == 200
        yield gateway


def test_a_page_in_openmetrics_is_read_by_the_strict_parser_and_leads_to_traces(gateway: InferGateway) -> None:
    answer = page(gateway, "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    samples = [sample for family in openmetrics(answer.body.decode()) for sample in family.samples]
    exemplars = {sample.name: sample.exemplar.labels for sample in samples if sample.exemplar is not None}
    for name in ("request_duration", "time_to_first_token"):
        assert exemplars[f"infer_gateway_{name}_seconds_bucket"] == {"trace_id": TRACE}
    (generation,) = [sample.value for sample in samples if sample.name == "infer_gateway_config_generation"]
    assert generation == 1


@needs_promtool
def test_promtool_has_nothing_to_say(gateway: InferGateway) -> None:
    assert PROMTOOL is not None
    text = page(gateway).body
    said = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
