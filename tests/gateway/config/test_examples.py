"""The examples do what their comments say."""

from __future__ import annotations

import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.sources.check import check
from gateway.sources.file import read

EXAMPLES = Path(__file__).parents[3] / "examples"
SAID = {
    "configmap.yaml": "ok: 0 routes, 0 pools",
    "gateway.yaml": "ok: 1 route, 2 pools",
    "provider.yaml": "ok: 1 route, 1 pool",
    "tenants.yaml": "ok: 1 route, 1 pool",
}


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of them, with the key that one of them asks its reader for."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "examples" / "openai.key").write_text("sk-test\n")
    return tmp_path / "examples"


def test_each_is_accepted_without_a_warning(examples: Path) -> None:
    assert {file.name: check([file]) for file in examples.glob("*.yaml")} == {
        name: (0, [said]) for name, said in SAID.items()
    }


def test_gateway() -> None:
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


def test_configmap() -> None:
    scheduler = read([EXAMPLES / "configmap.yaml"]).settings.scheduler
    assert [chosen.name for chosen in scheduler.filters()] == ["healthy", "least-request"]
    assert [chosen.name for chosen in scheduler.scores()] == [
        "least-request", "kv-cache", "least-latency", "prefix-cache",
    ]  # fmt: skip


def test_tenants() -> None:
    snapshot = read([EXAMPLES / "tenants.yaml"])
    comments = re.findall(r"# (.*)", (EXAMPLES / "tenants.keys").read_text())
    keys = {key.key_sha256.reveal(): key for key in snapshot.settings.auth.api_keys}
    known = [keys.pop(sha256(comment.encode()).hexdigest(), None) for comment in comments]
    assert [key.name for key in known if key] == ["ann", "bob", "zoe"]
    assert not keys
    assert {key.tier for key in known if key} == set(snapshot.settings.fairness.tiers)


def test_tenants_with_what_is_commented_out(examples: Path) -> None:
    file = examples / "tenants.yaml"
    file.write_text(re.sub(r"^# (state|usage): ", r"\1: ", file.read_text(), flags=re.MULTILINE))
    settings = read([file]).settings
    assert settings.usage.file.endswith("usage.jsonl")
    assert settings.state.redis is not None
    assert settings.state.redis.url.reveal() == "redis://127.0.0.1:6379/0"
