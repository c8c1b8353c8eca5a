"""What is listed, is served; what is served has the name it was asked by. (T)"""

from __future__ import annotations

from conformance.cases.gateway.errors import envelope
from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, Target, quoted

_REFERENCE = "OpenAI API reference, models"
_MOST = 8


async def listed(target: Target) -> list[str]:
    document = (await target.ask(MODELS)).expect(200).json
    check.equal(check.member(document, "object"), "list", "object")
    models = check.kind(check.member(document, "data"), list, "data")
    for model in models:
        check.equal(check.member(model, "object", "a model"), "model", "the object of a model")
        check.kind(check.member(model, "created", "a model"), int, "created")
        check.kind(check.member(model, "owned_by", "a model"), str, "owned_by")
    return [check.kind(check.member(model, "id", "a model"), str, "a model's id") for model in models]


@PROFILE.case("models.listing", "The listing has OpenAI's shape, each model once", source=_REFERENCE)
async def listing(target: Target) -> None:
    names = await listed(target)
    check.true(names, "no model is listed")
    check.equal(sorted(set(names)), sorted(names), "the list without repetitions")
    check.contains(names, target.setup.model, "the listing")


@PROFILE.case("models.served", "Every listed model is served", source=_REFERENCE, timeout=60.0)
async def served(target: Target) -> None:
    for name in (await listed(target))[:_MOST]:
        said = []
        for path, document in (
            (CHAT, target.chat(model=name, max_tokens=1)),
            (COMPLETIONS, {"model": name, "prompt": "a", "max_tokens": 1}),
            (EMBEDDINGS, {"model": name, "input": "a"}),
        ):
            answer = await target.ask(path, document)
            if answer.status == 200:
                break
            said.append(f"{path} {answer.status}")
        else:
            check.fail(f"{name} is listed, but not served", "200 of chat, completions or embeddings", ", ".join(said))


@PROFILE.case("models.one", "Each listed model can be retrieved by itself", source=_REFERENCE, level=Level.SHOULD)
async def one(target: Target) -> None:
    for name in (await listed(target))[:_MOST]:
        model = (await target.ask(f"{MODELS}/{quoted(name)}")).expect(200).json
        check.equal(check.member(model, "id"), name, "the id")


@PROFILE.case("models.unknown", "A model that is not there: 404 model_not_found", source=_REFERENCE, level=Level.SHOULD)
async def unknown(target: Target) -> None:
    answer = (await target.ask(f"{MODELS}/no-such-model")).expect(404)
    check.equal(envelope(answer, "an unknown model")["code"], "model_not_found", "code")


@PROFILE.case(
    "models.name-kept",
    "Answers name the model as it was asked for",
    source="OpenAI API reference, chat object",
    level=Level.SHOULD,
)
async def name_kept(target: Target) -> None:
    check.equal((await target.chatted())["model"], target.setup.model, "the model of an answer")
    named = {chunk.get("model") for chunk in (await target.streamed()).chunks}
    check.equal(sorted(map(str, named)), [target.setup.model], "the models that a stream names")
