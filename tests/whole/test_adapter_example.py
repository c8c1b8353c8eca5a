"""The example of an adapter: installed as its page says, in front of its engine, and accepted by the suite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.process import InferGateway, run, serve
from tests.whole.parrot_engine import EXAMPLE, install, perched

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-an-adapter.md").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example's module, and what its pyproject makes an installer write down, where every process finds them."""
    site = tmp_path_factory.mktemp("site")
    install(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        yield


@pytest.fixture(scope="module")
def gateway(installed: None) -> Iterator[InferGateway]:
    with perched() as url, serve("--backend", f"parrot={url}") as running:
        yield running


@pytest.fixture
def client(gateway: InferGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0, timeout=30.0) as sdk:
        yield sdk


HEARD = [{"role": "user", "content": "one two three four"}]


def test_a_chat(client: OpenAI) -> None:
    made = client.chat.completions.create(model="polly", messages=HEARD, max_completion_tokens=3)
    assert made.choices[0].message.content == "one two three"
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (4, 3)
    assert made.created > 1_700_000_000


def test_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(model="polly", messages=HEARD, stream_options={"include_usage": True}) as made:
        whole = made.get_final_completion()
    assert whole.choices[0].message.content == "one two three four"
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 8


def test_what_it_cannot_do_is_told(gateway: InferGateway) -> None:
    def ask(path: str = "chat/completions", **members: object) -> httpx.Response:
        body = {"model": "polly", "messages": HEARD, **members}
        return httpx.post(f"{gateway.url}/v1/{path}", json=body, timeout=30)

    for members, param in (({"n": 2}, "n"), ({"top_k": 5}, "top_k"), ({"guided_json": {"a": 1}}, "guided_json")):
        answer = ask(**members)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert ask("embeddings", input="x").status_code == 404
    full = ask(messages=[{"role": "user", "content": "enough"}])
    assert (full.status_code, full.json()["error"]["message"]) == (429, "enough!")
    broken = ask(messages=[{"role": "user", "content": "a choke"}], stream=True)
    assert broken.status_code == 200
    assert "a nut went down the wrong way" in broken.text
    assert "[DONE]" not in broken.text


def test_the_suite_accepts_it(gateway: InferGateway) -> None:
    command = re.search(r"^\$ infer-gateway conformance (.+)$", PAGE, re.MULTILINE)
    assert command is not None
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command[1])]
    words[words.index("--url") + 1] = gateway.url
    done = run("conformance", *words, within_s=120)
    assert done.returncode == 0, done.stdout


def test_an_adapter_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[infer_gateway.adapters]\nbroken = no_such_module:X\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run("serve", "--backend", "broken=http://127.0.0.1:9", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert done.returncode == 1
    assert 'adapter "broken" cannot be loaded from no_such_module:X' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_shows_the_example() -> None:
    code = (EXAMPLE / "parrot.py").read_text()
    shown = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    assert shown
    for block in shown:
        assert block in code
    toml = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert toml
    assert all(block in (EXAMPLE / "pyproject.toml").read_text() for block in toml)
