"""Check what the documentation says against the checkout: links, commands, code blocks, module docstrings. (IO)

A relative link resolves to a file and its #anchor to a heading; the subcommand and the flags of each `infer-gateway …`
exist, and so do files of the checkout in commands; each ```python block compiles; each ```yaml block parses, and is
valid where it holds our own kinds or settings; each source module says what it is for, with its letter.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway.config.decode import Decoder  # noqa: E402
from gateway.config.document import ConfigError, Document, parse  # noqa: E402
from gateway.config.envelope import read  # noqa: E402
from gateway.config.settings import Settings  # noqa: E402
from tools.size_check import sources  # noqa: E402

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
SHELL = ("", "sh", "bash", "shell", "console")
FILE = re.compile(r"(?<![\w/.-])(?:charts|examples|docs|tools|benchmarks)/[\w./-]+")
VALUES = ROOT / "charts" / "infer-gateway" / "values.yaml"
NOTHING = object()
SECTIONS = {field.encode_name for field in msgspec.structs.fields(Settings)}
LETTER = re.compile(r"\((P|T|IO)\)")


def documents(root: Path) -> list[Path]:
    """Markdown that belongs to the project."""
    return [
        *sorted(root.glob("*.md")),
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "examples").rglob("*.md")),
        *sorted((root / "charts").rglob("*.md")),
    ]


def anchor(heading: str) -> str:
    """The fragment under which a code host shows a heading."""
    text = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken_links(path: Path, text: str) -> Iterator[str]:
    """Relative targets that do not exist. Links to other sites are not followed."""
    for target in LINK.findall(INLINE.sub("", FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        if not aim.exists():
            yield f"link to {target}: no such file"
        elif fragment and fragment not in {anchor(h) for h in HEADING.findall(aim.read_text())}:
            yield f"link to {target}: no such heading"


def broken_python(text: str) -> Iterator[str]:
    """Blocks marked python that do not compile; top-level await is fine."""
    for language, code in FENCE.findall(text):
        if language != "python":
            continue
        try:
            compile(textwrap.dedent(code), "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error:
            yield f"python block does not compile: {error}: {(error.text or '').strip()}"


def broken_yaml(text: str) -> Iterator[str]:
    """Blocks marked yaml that are none, or whose objects are wrong. Sections of a configuration may stand alone."""
    for language, code in FENCE.findall(text):
        if language != "yaml":
            continue
        try:
            found = parse("yaml block", textwrap.dedent(code).encode())
        except ConfigError as error:
            yield from error.problems
            continue
        for document in found:
            yield from wrong_in(document)


def wrong_in(document: Document) -> list[str]:
    """What is wrong with an object of ours, or with sections of a GatewayConfiguration; nothing of what is neither."""
    tree, problems, decoder = document.tree, list[str](), Decoder()
    if isinstance(tree, dict) and "kind" in tree:
        read(document, problems, [])
    elif isinstance(tree, dict) and SECTIONS.issuperset(tree):
        decoder.build(tree, Settings)
    return [*problems, *(f"{document.place}: {each}" for each in decoder.problems)]


def missing_files(text: str) -> Iterator[str]:
    """Paths of the checkout that commands name and that are not there."""
    for language, code in FENCE.findall(text):
        for path in FILE.findall(code) if language in SHELL else ():
            if not (ROOT / path).exists():
                yield f"command names {path}: no such file"


def unknown_values(text: str, values: object) -> Iterator[str]:
    """What commands set of the chart's values that is not there. ``values``: the chart's."""
    for language, code in FENCE.findall(text):
        for name in re.findall(r"--set(?:-string)?[ =]([\w.]+)=", code) if language in SHELL else ():
            found: object = values
            for step in name.split("."):
                found = found.get(step, NOTHING) if isinstance(found, dict) else NOTHING
            if found is NOTHING:
                yield f"--set {name}: the chart has no such value"


def commands(text: str) -> Iterator[list[str]]:
    """Words after `infer-gateway`, for each command line in a shell block or between backticks."""
    lines = [line for lang, code in FENCE.findall(text) if lang in SHELL
             for line in code.replace("\\\n", " ").splitlines()]  # fmt: skip
    for line in lines + INLINE.findall(FENCE.sub("", text)):
        found = re.search(r"(?:^\s*|[/$&|;]\s*)infer-gateway\s+(.*)", line.split(" #")[0])
        if found:
            words = shlex.split(re.split(r"[|;]|&&?|[<>]", found[1])[0].replace("…", ""))
            yield [word.strip("[].") for word in words]


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def broken_command(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """Why the command line cannot be one, or None. Values are not checked."""
    if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
        return None
    choices = subparsers(parser)
    if words[0] not in choices:
        return f"infer-gateway {words[0]}: no such command"
    name, command = words[0], choices[words[0]]
    inner = subparsers(command)
    if words[1:] and words[1] in inner:
        name, command = f"{name} {words[1]}", inner[words[1]]
    flags = command._option_string_actions
    unknown = [word for word in words[1:] if word.startswith("-") and word.split("=")[0] not in flags]
    return f"infer-gateway {name}: no such option: {' '.join(unknown)}" if unknown else None


def cli_parser() -> argparse.ArgumentParser | None:
    """The program's own parser; None before there is a program."""
    try:
        from gateway.cli import parser
    except ImportError as error:
        print(f"docs: commands are not checked: {error}", file=sys.stderr)
        return None
    return parser()


def undocumented(root: Path) -> Iterator[str]:
    """Modules without a docstring, or whose docstring lacks its letter."""
    for path in sources(root):
        text = path.read_text()
        name = path.relative_to(root).as_posix()
        docstring = ast.get_docstring(ast.parse(text))
        if docstring is None and (text.strip() or path.name != "__init__.py"):
            yield f"{name}: no module docstring"
        elif docstring is not None and path.name != "__init__.py" and not LETTER.search(docstring):
            yield f"{name}: the module docstring lacks its letter, (P), (T) or (IO)"


def problems(root: Path, parser: argparse.ArgumentParser | None) -> Iterator[str]:
    """Everything wrong, one line each."""
    values = yaml.safe_load(VALUES.read_text())
    for path in documents(root):
        text = path.read_text()
        found = [
            *broken_links(path, text),
            *broken_python(text),
            *broken_yaml(text),
            *missing_files(text),
            *unknown_values(text, values),
        ]
        if parser is not None:
            found += [problem for words in commands(text) if (problem := broken_command(parser, words))]
        yield from (f"{path.relative_to(root).as_posix()}: {problem}" for problem in found)
    yield from undocumented(root)


def main() -> int:
    found = list(problems(ROOT, cli_parser()))
    for line in found:
        print(line, file=sys.stderr)
    print(f"docs: {len(documents(ROOT))} documents, {len(found)} problems")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
