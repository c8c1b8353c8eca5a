"""Names of plugins: built-in ones, aliases, other distributions', and what is not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.schedule import registry
from gateway.schedule.scorers import KVCache

MODULE = """
from gateway.config.decode import Section

class Cheapest(Section, frozen=True):
    price: float = 1.0
    def scorer(self, parts):
        return lambda ask, candidates: [self.price] * len(candidates)

class Mine(Cheapest, frozen=True):
    pass

function = len
"""


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another distribution is installed that has plugins."""
    (tmp_path / "cheap_plugins.py").write_text(MODULE)
    info = tmp_path / "cheap-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cheap\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[infer_gateway.plugins]\ncheapest = cheap_plugins:Cheapest\nkv-cache = cheap_plugins:Mine\n"
        "broken = no_such_module:X\nfunction = cheap_plugins:function\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._third_parties.cache_clear()
    yield
    registry._third_parties.cache_clear()
    sys.modules.pop("cheap_plugins", None)


@pytest.mark.parametrize("name", [*registry.BUILT_IN, *registry.ALIASES])
def test_every_plugin_needs_no_parameters_and_does_something(name: str) -> None:
    plugin = registry.find(name)
    assert any(registry.offers(plugin, kind) for kind in ("filter", "scorer", "picker"))
    plugin()


def test_every_name_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    assert [name for name in (*registry.BUILT_IN, *registry.ALIASES) if f"`{name}`" not in text] == []


def test_two_names_of_one_plugin() -> None:
    assert registry.find("gpu-usage") is registry.find("kv-cache") is KVCache
    assert registry.canonical("gpu-usage") == "kv-cache"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("least-reqest", 'no plugin "least-reqest"; did you mean "least-request"?'),
        ("kvcache-aware", 'no plugin "kvcache-aware": it reads an index that engines\' sidecars keep in Redis; prefix'),
        ("wholly else", 'no plugin "wholly else"'),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        registry.find(name)
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("distribution")
def test_other_distributions_plugins() -> None:
    assert "cheap_plugins" not in sys.modules
    assert registry.find("cheapest")(price=0.5).price == 0.5  # type: ignore[call-arg, attr-defined]
    assert registry.find("kv-cache").__name__ == "Mine"
    assert registry.find("gpu-usage") is KVCache
    assert registry.canonical("kv-cache") == "kv-cache"


@pytest.mark.usefixtures("distribution")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "cannot be loaded from no_such_module:X: No module named 'no_such_module'"),
        ("function", "cheap_plugins:function is not a gateway.config.decode.Section"),
    ],
)
def test_broken_plugins_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.find(name)
