"""Check the size of functions and modules, and print how sizes are distributed. (IO)

A function's size is the lines of its body: from the first statement after the docstring to the last line, blank lines
and comments included, nested functions counted in the outer one too. A module's size is its lines.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = ("gateway", "protocols", "adapters", "conformance")
GENERATED = ("/proto/", "/generated/")
MAX_FUNCTION = 50
MAX_MODULE = 500

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path) -> Iterator[Path]:
    """The project's own modules, without generated ones."""
    for tree in TREES:
        yield from (
            path
            for path in sorted((root / tree).rglob("*.py"))
            if not any(part in path.as_posix() for part in GENERATED)
        )


def body_lines(function: Function) -> int:
    """Lines of the body without its docstring; 0 where the docstring is all there is."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def functions(source: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, body lines) of every function in a module, methods and nested ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield node.name, node.lineno, body_lines(node)


def quantile(sizes: list[int], q: float) -> int:
    """The size that a share ``q`` of all does not exceed."""
    return sorted(sizes)[min(len(sizes) - 1, int(q * len(sizes)))] if sizes else 0


def distribution(what: str, sizes: list[int]) -> str:
    marks = " ".join(f"{label} {quantile(sizes, q)}" for label, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)))
    return f"size: {len(sizes)} {what}: {marks} max {max(sizes, default=0)} lines"


def main(root: Path = ROOT) -> int:
    modules: list[int] = []
    bodies: list[int] = []
    offenders: list[str] = []
    for path in sources(root):
        source = path.read_text()
        name = path.relative_to(root).as_posix()
        modules.append(len(source.splitlines()))
        if modules[-1] > MAX_MODULE:
            offenders.append(f"{name}: {modules[-1]} lines, at most {MAX_MODULE}")
        for function, line, size in functions(source):
            bodies.append(size)
            if size > MAX_FUNCTION:
                offenders.append(f"{name}:{line}: {function} has {size} lines of body, at most {MAX_FUNCTION}")
    for offender in offenders:
        print(offender, file=sys.stderr)
    print(distribution("functions", bodies))
    print(distribution("modules", modules))
    return bool(offenders)


if __name__ == "__main__":
    sys.exit(main())
