"""The examples do what their comments say."""

from __future__ import annotations

import shutil
from pathlib import Path

from gateway.sources.check import check
from gateway.sources.file import read

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_gateway() -> None:
    assert check([EXAMPLES / "gateway.yaml"]) == (0, ["ok: 1 route, 2 pools"])
    table = read([EXAMPLES / "gateway.yaml"]).routes
    beta = table.match("llama", "/v1/chat/completions", ((b"x-release", b"beta"),), 0.0)
    assert (beta.pool, beta.model) == ("default/llama-next", "meta-llama/Llama-3.3-8B-Instruct")
    assert table.match("llama", "/v1/chat/completions", (), 0.5).pool == "default/llama-stable"
    assert table.match("llama", "/v1/chat/completions", (), 0.95).pool == "default/llama-next"
    assert table.match("llama-support", "/v1/chat/completions", (), 0.5).model is None


def test_provider(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "provider.yaml", tmp_path)
    status, lines = check([tmp_path / "provider.yaml"])
    assert status == 1
    assert lines[0].endswith(f"$.spec.auth.keyFile: cannot read {tmp_path}/openai.key: No such file or directory")
    (tmp_path / "openai.key").write_text("sk-test\n")
    assert check([tmp_path / "provider.yaml"]) == (0, ["ok: 1 route, 1 pool"])


def test_configmap() -> None:
    scheduler = read([EXAMPLES / "configmap.yaml"]).settings.scheduler
    assert [chosen.name for chosen in scheduler.filters()] == ["healthy", "least-request"]
    assert [chosen.name for chosen in scheduler.scores()] == [
        "least-request", "kv-cache", "least-latency", "prefix-cache",
    ]  # fmt: skip
    status, lines = check([EXAMPLES / "configmap.yaml"])
    assert status == 0
    assert lines == ["ok: 0 routes, 0 pools"]
