"""What the site makes of pages: its contents, and links to files that are no pages."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.process import ROOT
from tools.docs_check import documents

DOCS = ROOT / "docs"


@pytest.fixture
def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conf_of_docs", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lists_of_the_index_are_the_contents(conf: ModuleType) -> None:
    index = "# T\n\n- [no](no.md)\n\n## A\n\n- [x](x.md): words\n- [y](r/y.md)\n\n## B\n\nwords [z](z.md)\n"
    assert conf.contents(index) == "\n```{toctree}\n:hidden:\n:caption: A\n\nx <x>\ny <r/y>\n```\n"


def test_every_page_is_in_the_contents(conf: ModuleType) -> None:
    listed = conf.contents((DOCS / "index.md").read_text())
    pages = [path.relative_to(DOCS).with_suffix("").as_posix() for path in documents(ROOT) if DOCS in path.parents]
    assert [page for page in pages if page != "index" and f" <{page}>\n" not in listed] == []


def test_links_out_of_the_pages(conf: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[a](../README.md) [b](../examples/kubernetes) [c](kubernetes.md#x) [d](../nowhere)"
    shown = "[a](path:../README.md) b (`examples/kubernetes`) [c](kubernetes.md#x) [d](../nowhere)"
    assert conf.outside(text, DOCS) == shown
    monkeypatch.setattr(conf, "SOURCE_URL", "https://h/o/r/blob/main")
    assert conf.outside("[a](../README.md#x)", DOCS) == "[a](https://h/o/r/blob/main/README.md#x)"
