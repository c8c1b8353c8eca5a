"""The documentation check finds what it is for and lets the rest pass."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tools import docs_check


def a_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("infer-gateway")
    commands = parser.add_subparsers()
    serve = commands.add_parser("serve")
    serve.add_argument("--backend")
    serve.add_argument("-c", "--config")
    commands.add_parser("bench").add_subparsers().add_parser("replay").add_argument("--speed")
    return parser


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```sh\ninfer-gateway serve \\\n  --backend vllm=http://a &\n```", ["serve", "--backend", "vllm=http://a"]),
        ("run `infer-gateway serve -c FILE` now", ["serve", "-c", "FILE"]),
        ("```\n$ .venv/bin/infer-gateway serve  # starts it\n```", ["serve"]),
    ],
)
def test_commands_are_read_from_blocks_and_backticks(text: str, words: list[str]) -> None:
    assert list(docs_check.commands(text)) == [words]


def test_a_namespace_is_no_command() -> None:
    text = "```sh\nkubectl -n infer-gateway get secret -o go-template='{{.a | b}}'\na && infer-gateway check x\n```"
    assert list(docs_check.commands(text)) == [["check", "x"]]


def test_prose_and_python_hold_no_commands() -> None:
    assert list(docs_check.commands("infer-gateway is a gateway\n```python\n# infer-gateway nothing\n```\n")) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["serve", "--backend=x"], None),
        (["serve", "--nothing", "1"], "infer-gateway serve: no such option: --nothing"),
        (["bench", "replay", "trace", "--speed", "2"], None),
        (["bench", "replay", "--rate", "1"], "infer-gateway bench replay: no such option: --rate"),
        (["bench", "--speed", "2"], "infer-gateway bench: no such option: --speed"),
        (["launch"], "infer-gateway launch: no such command"),
        (["ENGINE"], None),
    ],
)
def test_commands_are_checked_against_the_parser(words: list[str], problem: str | None) -> None:
    assert docs_check.broken_command(a_parser(), words) == problem


def test_links_resolve_to_files_and_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# A `Title`, here\n[up](#a-title-here) [self](page.md#a-title-here) [web](https://example.com/x)\n"
    page.write_text(text)
    assert list(docs_check.broken_links(page, text)) == []
    broken = docs_check.broken_links(page, "[x](nowhere.md) [y](page.md#nowhere)")
    assert list(broken) == ["link to nowhere.md: no such file", "link to page.md#nowhere: no such heading"]


def test_python_blocks_compile() -> None:
    good = "```python\nasync with a as b:\n    await b\n```\n"
    assert list(docs_check.broken_python(good)) == []
    assert len(list(docs_check.broken_python("```python\ndef f(:\n```\n"))) == 1


def test_modules_say_what_they_are_for(tmp_path: Path) -> None:
    tree = tmp_path / "gateway"
    tree.mkdir()
    (tree / "__init__.py").write_text("")
    (tree / "good.py").write_text('"""Good. (P)"""\n')
    (tree / "mute.py").write_text("x = 1\n")
    (tree / "vague.py").write_text('"""Something."""\n')
    assert list(docs_check.undocumented(tmp_path)) == [
        "gateway/mute.py: no module docstring",
        "gateway/vague.py: the module docstring lacks its letter, (P), (T) or (IO)",
    ]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("a: [", "yaml block"),
        ("fairness: {enabled: true, windowSizes: 5m}", "$.fairness.windowSizes: unknown field"),
        ("apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\nfairnes: {}", "$.fairnes: unknown field"),
        ("apiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelRoute\nspec: {rules: []}", "$.spec.rules"),
    ],
)
def test_yaml_blocks_that_are_wrong(block: str, problem: str) -> None:
    indented = "".join(f"   {line}\n" for line in f"```yaml\n{block}\n```".splitlines())
    for text in (f"```yaml\n{block}\n```\n", indented):
        assert any(problem in found for found in docs_check.broken_yaml(text))


def test_yaml_blocks_of_others_pass() -> None:
    text = "```yaml\nkind: Pod\napiVersion: v1\n---\nmodel_list: []\n---\nfairness: {enabled: true}\n```\n"
    assert list(docs_check.broken_yaml(text)) == []


def test_files_that_commands_name() -> None:
    text = (
        "```sh\nhelm install x charts/nothing -f docs/design.md\n```\n`charts/nowhere` ```yaml\nfile: tools/none\n```\n"
    )
    assert list(docs_check.missing_files(text)) == ["command names charts/nothing: no such file"]


def test_values_that_commands_set() -> None:
    text = "```sh\nhelm install x . --set a.b=1 --set a.c=2 --set-string b.d=3\n```\n"
    found = list(docs_check.unknown_values(text, {"a": {"b": None}}))
    assert found == ["--set a.c: the chart has no such value", "--set b.d: the chart has no such value"]
