"""Counting tokens by tokenizer files: what is counted, what is refused, what may not be held up."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gateway import tokenizer
from gateway.config.document import ConfigError
from gateway.sources.file import attempt, read
from gateway.tokenizer import Tokenizers, Vocabulary, vocabulary


def words(*known: str, ends: bool = False, cut: bool = False) -> bytes:
    """A tokenizer.json that makes a token of each word; ``ends``: and of the beginning, ``cut``: keeps two."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("<s>", "?", *known))}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    if cut:
        made.enable_truncation(2)
        made.enable_padding(length=50)
    return str(made.to_str()).encode()


class Counting:
    """A vocabulary that counts bytes, in threads only once ``free`` is set."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.free = threading.Event()
        self.done = 0

    def count(self, text: bytes) -> int:
        self.threads.append(threading.current_thread())
        if threading.current_thread() is not threading.main_thread():
            self.free.wait(10)
            self.done += 1
        return len(text)


def test_a_text_is_counted_whole() -> None:
    assert vocabulary(words("a")).count(b"a b c") == 3
    assert vocabulary(words("a", ends=True)).count(b"a b c") == 4
    assert vocabulary(words("a", cut=True)).count(b"a b c") == 3
    assert vocabulary(words("a")).count(b"") == 0


def test_text_that_is_no_text_is_counted_too() -> None:
    assert vocabulary(words("x")).count("\ud800 x".encode("utf-8", "surrogatepass")) == 2
    assert vocabulary(words("x")).count(b"\xff x") == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, words("a")[:-20], b'{"model": null}'])
def test_what_is_no_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a tokenizer"):
        vocabulary(content)


def test_the_same_file_is_built_once_while_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[bytes] = []
    build = tokenizer._built
    monkeypatch.setattr(tokenizer, "_built", lambda content: built.append(content) or build(content))
    first, content = vocabulary(words("once")), words("once")
    assert vocabulary(content) is first
    assert len(built) == 1
    del first
    gc.collect()
    vocabulary(content)
    assert len(built) == 2


def test_without_the_extra_the_reader_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"infer-gateway\[tokenizers\]"):
        vocabulary(words("never built"))


class PanicException(BaseException):
    """What the library raises when its own code fails."""


@pytest.mark.parametrize("error", [PanicException("index out of bounds"), OverflowError("too long")])
def test_a_library_that_fails_leaves_an_estimate(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def encode(texts: list[str]) -> list[object]:
        raise error

    failing = Vocabulary(encode)
    assert (failing.count(b"secret"), failing.count(b"secret")) == (None, None)
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_being_told_to_stop_is_no_failure_of_the_library() -> None:
    def encode(texts: list[str]) -> list[object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Vocabulary(encode).count(b"x")


def test_the_first_glob_that_fits_decides() -> None:
    short, long = Counting(), vocabulary(words("a"))
    subject = Tokenizers([("meta/*", short), ("*", long)])
    assert subject.count_nowait("meta/llama", b"a b c") == 5
    assert subject.count_nowait("other", b"a b c") == 3
    assert Tokenizers([("meta/*", short)]).count_nowait("other", b"a") is None
    assert Tokenizers().count_nowait("other", b"a") is None
    assert (bool(subject), bool(Tokenizers())) == (True, False)


def test_what_is_remembered_of_models_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_MODELS", 3)
    subject = Tokenizers([("m*", Counting())])
    for number in range(20):
        assert subject.count_nowait(f"m{number}", b"x") == 1
        assert subject.count_nowait(f"n{number}", b"x") is None
        assert len(subject._found) <= 3


def test_a_long_text_is_counted_in_a_thread() -> None:
    async def main() -> None:
        counting = Counting()
        counting.free.set()
        subject, text = Tokenizers([("*", counting)]), b"x" * (tokenizer.INLINE + 1)
        assert subject.count_nowait("m", text) is None
        assert await subject.count("m", text) == len(text)
        assert await subject.count("m", b"x") == 1
        assert [thread is threading.main_thread() for thread in counting.threads] == [False, True]

    trio.run(main)


def test_beyond_bounds_there_is_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(tokenizer, "LONGEST", 10_000)
        counting = Counting()
        subject = Tokenizers([("m", counting)])
        assert await subject.count("m", b"x" * 10_001) is None
        assert await subject.count("other", b"x" * 9000) is None
        assert counting.threads == []

    trio.run(main)


def test_a_count_waits_for_nobody_elses_and_for_no_client_that_left() -> None:
    async def main() -> None:
        counting = Counting()
        subject, text = Tokenizers([("*", counting)]), b"x" * 9000
        async with trio.open_nursery() as nursery:
            for _ in range(int(subject._threads.total_tokens)):
                nursery.start_soon(subject.count, "m", text)
            await trio.testing.wait_all_tasks_blocked()
            assert await subject.count("m", text) is None
            assert subject.count_nowait("m", b"x") == 1
            nursery.cancel_scope.cancel()  # returns, though the threads are still at it
        assert counting.done == 0
        counting.free.set()

    trio.run(main)


# -- as configured -----------------------------------------------------------------------------------------------------


CONFIGURATION = """
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
usage: {file: out/usage.jsonl}
tokenizers:
- {model: "meta/*", file: llama.json}
- {model: "*", file: sub/other.json}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(CONFIGURATION)
    (tmp_path / "llama.json").write_bytes(words("a"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.json").write_bytes(words("a", ends=True))
    return tmp_path


def test_files_are_found_beside_the_document_and_watched(folder: Path) -> None:
    snapshot = read([folder / "gateway.yaml"])
    subject = Tokenizers(snapshot.vocabularies)
    assert subject.count_nowait("meta/llama", b"a b") == 2
    assert subject.count_nowait("other", b"a b") == 3
    assert set(snapshot.files) == {str(folder / "llama.json"), str(folder / "sub" / "other.json")}
    assert snapshot.settings.usage.file == str(folder / "out" / "usage.jsonl")  # not read, and need not exist


def test_a_changed_file_is_another_configuration(folder: Path) -> None:
    paths = [folder / "gateway.yaml"]
    before = attempt(paths)
    assert attempt(paths).digest == before.digest
    (folder / "llama.json").write_bytes(words("a", ends=True))
    after = attempt(paths)
    assert after.digest != before.digest
    assert after.snapshot is not None
    assert Tokenizers(after.snapshot.vocabularies).count_nowait("meta/llama", b"a b") == 3


def _remove(path: Path) -> None:
    path.unlink()


def _spoil(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    ("harm", "word"), [(_remove, "cannot read {}: No such file or directory"), (_spoil, "{}: not a tokenizer: ")]
)
def test_a_bad_file_is_refused_where_it_is_named(folder: Path, harm: Callable[[Path], None], word: str) -> None:
    harm(folder / "sub" / "other.json")
    with pytest.raises(ConfigError) as caught:
        read([folder / "gateway.yaml"])
    (problem,) = caught.value.problems
    place = f"{folder / 'gateway.yaml'}, document 1 (GatewayConfiguration): $.tokenizers[1].file: "
    assert problem.startswith(place + word.format(folder / "sub" / "other.json"))
