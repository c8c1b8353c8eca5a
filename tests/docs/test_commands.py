"""Every command of the documentation is run, in the order of its page, and does what its reader expects: it succeeds.

Servers are started, waited for and stopped when the page ends; Python that is a whole program is run; a block of YAML
is a file of whatever name a later command gives it. kubectl and helm work against the fake API server of tests/kube.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.charts.chart import program
from tests.docs.pages import Step, commands, steps, unmarked
from tests.docs.reader import Failed, Reader
from tests.kube.cluster import Cluster, Tree, pod, thing
from tests.kube.fleet import engine, shared_port
from tests.process import ROOT, eventually, run, serve, simulate, together
from tests.whole.parrot_engine import perched
from tools.docs_check import documents

ELSEWHERE = {
    r"pip install ": "needs an index; the environment of the tests is what it would make",
    r"grpcurl ": "a program of others that is not to be had here; reflection is tested in tests/whole",
    r"kubectl scale ": "the fake API server scales nothing",
    r"kubectl .*port-forward ": "the fake API server's pods run nowhere",
    r"make bench": "minutes of benchmarks, which have tests of their own",
}
"""Commands that cannot be run here, and why. What could be run has no place in it."""

FRAGMENTS = {
    "docs/configuration.md": "a class, for a distribution of its own",
    "docs/conformance.md": "a case, for a module of cases",
    "docs/openai-api.md": "a function, for another program",
}
"""Pages whose Python is no whole program."""

SHORTER = (
    (r"--duration \d+", "--duration 0.5"),
    (r"--requests \d+", "--requests 20"),
    (r"--connections \d+", "--connections 4"),
    (r"bench limits\b", "bench limits --only cost --seconds 2"),
    (r"bench fairness\b", "bench fairness --quick --only weights"),
    (r" --suite( --quick)?", " --requests 20"),
    (r"conformance (?!.*--select)", "conformance --select 'openai.chat.*' "),
    (r"infer-gateway top(?!.*--admin)", "infer-gateway top --admin http://127.0.0.1:9090"),
    (
        r"helm install picker |helm upgrade --install infer-gateway (?=[^#]*(?:serviceMonitor|prometheusRule))",
        "helm template picker ",
    ),
    (r" --ca-file ca.pem", ""),
    (r"^(prometheus .*|curl -N \S+/api/live)", r"timeout 3 \1 || test $? = 124"),
    (r" --plot \S+", ""),
)
"""The same in less time, without what needs matplotlib, an authority, or definitions of others' operators."""

WORDS = {
    "make demo": "infer-gateway demo",
    "~/.kube/config": "$KUBECONFIG",
    "//a:8000": "//127.0.0.1:8000",
    "//b:8000": "//127.0.0.1:8003",
    "//b:30000": "//127.0.0.1:30000",
    "//c:30000": "//127.0.0.1:30000",
    "https://gateway.example:9090": "http://127.0.0.1:9090",
    "https://api.openai.com/v1": "http://127.0.0.1:8000",
    "https://api.example.com/v1": "http://127.0.0.1:8080",
}
"""What a reader has, and its place here."""

TRACE = "".join(
    json.dumps({"timestamp": 200 * n, "input_length": 2048, "output_length": 8, "hash_ids": [n % 5, 9, 9 + n % 7, n]})
    + "\n"
    for n in range(40)
)
FILES = {
    "conversation.jsonl": TRACE,
    "clients.csv": "user,timestamp,input_tokens,output_tokens\n" + "".join(f"u{n % 4},{n},90,9\n" for n in range(80)),
    "token": "a-token-of-the-tests\n",
    "scheduler.yaml": "apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\n"
    "scheduler: {plugins: {Score: {enabled: [least-request]}}}\n",
}
"""What a reader brings along."""

PAGES = [path.relative_to(ROOT).as_posix() for path in documents(ROOT)]
HOSTS = ("127.0.4.1", "127.0.4.2")
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
CLUSTER = re.compile(r"\b(kubectl|helm) |--kubernetes\b")


def sorted_out(page: str) -> tuple[list[Step], list[Step]]:
    """What is to be done with a page, and what of it belongs elsewhere."""
    here, elsewhere = list[Step](), list[Step]()
    for step in steps((ROOT / page).read_text()):
        foreign = step.kind == "command" and any(re.match(pattern, step.text) for pattern in ELSEWHERE)
        (elsewhere if foreign or (step.kind == "python" and page in FRAGMENTS) else here).append(step)
    return here, elsewhere


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, str]]:
    """Where a page finds what it does not start itself: its ports → ours."""
    a = simulate("vllm", "demo-vllm", "--model", "llama")
    b = simulate("vllm", "demo-vllm", "--model", "llama")
    c = simulate("sglang", "demo-sglang", "--model", "llama")
    with together(a, b, c), perched() as parrot:
        backends = [word for each in (a, b) for word in ("--backend", f"vllm={each.url}")]
        with serve(*backends, "--backend", f"sglang={c.url}") as gateway:
            assert eventually(lambda: known(gateway.ready["admin"]) == 6)  # three endpoints, each of two models
            run("bench", "--url", gateway.url, "--model", "llama", "--requests", "4")  # something to be seen
            found = {"8000": a, "8003": b, "30000": c}
            listeners = {"8080": "http", "50051": "grpc", "9090": "admin"}
            yield (
                {port: each.ready["http"].rpartition(":")[2] for port, each in found.items()}
                | {"9000": parrot.rpartition(":")[2]}
                | {port: gateway.ready[name].rpartition(":")[2] for port, name in listeners.items()}
            )


def known(admin: str) -> int:
    """Endpoints in pools, as the gateway says."""
    with urlopen(f"http://{admin}/api/endpoints", timeout=10) as answer:
        return len(json.load(answer))


@pytest.fixture(scope="module")
def engines() -> Iterator[int]:
    """Two pods' engines, and where they listen."""
    port = shared_port()
    with together(*(engine(host, port, model=MODEL) for host in HOSTS)):
        yield port


def a_cluster(stack: ExitStack, reader: Reader, port: int) -> None:
    """With two pods of a model, and what pages find there."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    if (helm := program()).startswith("!"):
        pytest.skip(helm[1:])
    cluster = stack.enter_context(Cluster(tls=True))
    pods = [pod(f"llama-{n}", host, {"app": "llama"}, port, namespace="models") for n, host in enumerate(HOSTS)]
    cluster.apply(*kthena())
    reader.after["kubectl create namespace models"] = lambda: cluster.create(*pods)
    (reader.home / ".venv" / "bin" / "helm").symlink_to(helm)
    models = reader.home / "examples" / "kubernetes" / "models.yaml"
    models.write_text(models.read_text().replace("8000", str(port)))
    reader.environment["KUBECONFIG"] = str(cluster.kubeconfig)


def kthena() -> list[Tree]:
    """What whoever migrates has."""
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}
    hook = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return [
        {**hook, "metadata": {"name": "kthena-router-webhook"}},
        thing("apps/v1", "Deployment", "kthena-router", spec, namespace="kthena-system"),
    ]


def follow(reader: Reader, todo: list[Step]) -> None:
    """Do what the page says. Raises Failed, naming the line."""
    shown = ""
    for step in todo:
        try:
            if step.kind == "yaml":
                shown = step.text
            elif step.kind == "python":
                reader.run_python(step.text)
            elif step.kind == "command":
                lay_out(reader.home, step.text, shown)
                reader.type(shorter(step.text))
        except Failed as failed:
            raise AssertionError(f"line {step.line}: {failed}") from None


def lay_out(home: Path, text: str, shown: str) -> None:
    """The files that a command reads: brought along, or shown before it."""
    for name, content in FILES.items():
        if re.search(rf"(?<![\w./-]){name}(?![\w-])", text):
            (home / name).write_text(content)
    for name in re.findall(r"(?<![/\w>-])[\w-]+\.yaml\b", text.partition(">")[0]):
        if not (home / name).exists() and shown:
            (home / name).write_text(shown)


def shorter(text: str) -> str:
    for pattern, instead in SHORTER:
        text = re.sub(pattern, instead, text)
    return text


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(s.kind in ("command", "python") for s in sorted_out(page)[0])]
)
def test_commands_of(page: str, shared: dict[str, str], engines: int, tmp_path: Path) -> None:
    todo, _ = sorted_out(page)
    with ExitStack() as stack:
        reader = Reader(tmp_path / "checkout", shared, WORDS)
        if any(CLUSTER.search(step.text) for step in todo if step.kind == "command"):
            a_cluster(stack, reader, engines)
        stack.enter_context(reader)
        follow(reader, todo)


def test_what_is_not_run_is_a_command_all_the_same(tmp_path: Path) -> None:
    for page in PAGES:
        for step in sorted_out(page)[1]:
            if step.kind == "command":
                assert subprocess.run(["bash", "-n", "-c", step.text]).returncode == 0, f"{page}: {step}"


def test_every_exception_is_needed() -> None:
    left = [step.text for page in PAGES for step in sorted_out(page)[1] if step.kind == "command"]
    assert [pattern for pattern in ELSEWHERE if not any(re.match(pattern, text) for text in left)] == []
    assert [page for page in FRAGMENTS if not any(step.kind == "python" for step in sorted_out(page)[1])] == []


def test_blocks_that_hold_commands_say_so() -> None:
    assert {page: found for page in PAGES if (found := unmarked((ROOT / page).read_text()))} == {}


# --- the machinery ----------------------------------------------------------------------------------------------------


def test_how_a_block_is_cut() -> None:
    code = "# a word\na \\\n  b\n\nc '{\n d}'  # e\ncat > f <<'EOF'\ng 'h\nEOF\ni\n"
    assert list(commands(code)) == [
        (1, "a \\\n  b"),
        (4, "c '{\n d}'  # e"),
        (6, "cat > f <<'EOF'\ng 'h\nEOF"),
        (9, "i"),
    ]


def test_what_a_console_shows() -> None:
    page = "x\n```console\n$ a b\nready\n$ c\n```\n```text\nd\n```\n"
    assert list(steps(page)) == [Step(3, "command", "a b"), Step(5, "command", "c"), Step(8, "text", "d\n")]


@pytest.mark.parametrize(
    "code", ["false", "curl -s http://127.0.0.1:8080/nothing", "infer-gateway serve -c nowhere.yaml"]
)
def test_a_command_that_fails_is_told(code: str, shared: dict[str, str], tmp_path: Path) -> None:
    with Reader(tmp_path / "checkout", shared, WORDS) as reader, pytest.raises(AssertionError, match=r"^line 7: "):
        follow(reader, [Step(6, "command", "true"), Step(7, "command", code)])


def test_python_that_fails_is_told(tmp_path: Path) -> None:
    with Reader(tmp_path / "checkout", {}, WORDS) as reader, pytest.raises(AssertionError, match="ZeroDivisionError"):
        follow(reader, [Step(1, "python", "1 / 0")])
