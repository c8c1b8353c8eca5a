"""Write docs/reference/ from what the program itself goes by, or with --check tell which of its pages are stale. (IO)

Settings and resources are the structs that read them, with what their docstrings say of each field; commands are the
parser's; errors are the taxonomy with each front end's table. What has no meaning written down is a problem.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.reference import commands, errors, sections  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
PAGES: dict[str, Callable[[], tuple[str, list[str]]]] = {
    "configuration.md": sections.settings,
    "resources.md": sections.resources,
    "cli.md": commands.page,
    "errors.md": errors.page,
}
"""Each makes a page's text, and says what lacks a meaning."""


def written() -> Iterator[tuple[str, str, list[str]]]:
    for name, make in PAGES.items():
        text, lacking = make()
        yield name, text, lacking


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, text, lacking in written():
        path = folder / name
        found += [f"{name}: nothing says what {each} means" for each in lacking]
        if "--check" not in arguments:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            found.append(f"{name}: out of date; `make proto` writes it")
    for line in found:
        print(line, file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
