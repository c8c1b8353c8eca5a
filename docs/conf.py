"""How the documentation becomes a site (`make docs`): plain Markdown in, files that need no network out. (IO)

The lists on index.md are the table of contents: a heading is a part of it, a link in a list below is a page. A link to
a file outside docs/ leads to its place under $DOCS_SOURCE_URL where that is set, else to a copy in the site.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import gateway  # noqa: E402

project = "infer-gateway"
version = release = gateway.__version__
language = "en"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
nitpicky = True  # a reference that leads nowhere is a warning, and warnings are errors in `make docs`
suppress_warnings = ["misc.highlighting_failure"]  # a language that Pygments does not know is shown plain

myst_heading_anchors = 4

html_theme = "furo"
html_title = f"infer-gateway {version}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_baseurl = os.environ.get("DOCS_BASE_URL", "")
pygments_style = "friendly"
pygments_dark_style = "monokai"

SOURCE_URL = os.environ.get("DOCS_SOURCE_URL", "").rstrip("/")
_PART = re.compile(r"^## (.+)$", re.MULTILINE)
_PAGE = re.compile(r"^- \[([^\]]+)\]\(([\w/-]+)\.md\)", re.MULTILINE)
_OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def contents(index: str) -> str:
    """Hidden tables of contents, one for each part of the index page that lists pages."""
    _, *parts = _PART.split(index)
    pages = {title: _PAGE.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n"
        + "\n".join(f"{name} <{page}>" for name, page in listed)
        + "\n```\n"
        for title, listed in pages.items()
        if listed
    )


def outside(text: str, folder: Path) -> str:
    """``text`` with links out of docs/ turned into links that a site can have."""

    def turned(link: re.Match[str]) -> str:
        words, target, place = link.groups(default="")
        path = (folder / target).resolve()
        if path.is_relative_to(DOCS) or not path.exists():
            return link[0]
        if SOURCE_URL:
            return f"[{words}]({SOURCE_URL}/{path.relative_to(ROOT).as_posix()}{place})"
        if path.is_dir():  # of which there is no copy
            return f"{words} (`{path.relative_to(ROOT).as_posix()}`)"
        return f"[{words}](path:{target})"

    return _OUTSIDE.sub(turned, text)


def _read(app: object, name: str, source: list[str]) -> None:
    source[0] = outside(source[0], (DOCS / name).parent)
    if name == root_doc:
        source[0] += contents(source[0])


def setup(app: object) -> None:
    app.connect("source-read", _read)  # type: ignore[attr-defined]
