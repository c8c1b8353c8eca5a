"""The list of models, and one of them. (P)"""

from __future__ import annotations

from conformance.cases.openai.profile import MODEL, PROFILE
from conformance.cases.openai.shapes import Error, Model, Models, conform
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import MODELS, Target, quoted

_LIST, _ONE = f"{MODEL}: list", f"{MODEL}: retrieve"


async def _listed(target: Target) -> Models:
    return conform((await target.ask(MODELS)).expect(200).json, Models, "the list of models")


@PROFILE.case("models.list", "The list of models has the published shape", source=_LIST)
async def listed(target: Target) -> None:
    check.true((await _listed(target)).data, "no model is listed")


@PROFILE.case("models.listed-once", "The model under test is listed, and no model twice", source=_LIST)
async def once(target: Target) -> None:
    ids = [each.id for each in (await _listed(target)).data]
    check.contains(ids, target.setup.model, "the list of models")
    check.equal(len(ids), len(set(ids)), "the number of listed ids, against that of different ones,")


@PROFILE.case("models.created", "created is a Unix time in seconds", source=f"{MODEL}: created", level=Level.SHOULD)
async def created(target: Target) -> None:
    for each in (await _listed(target)).data:
        check.at_least(each.created, 1, f"created of {each.id}")
        check.at_most(each.created, 10_000_000_000, f"created of {each.id}, in seconds,")


async def _retrieved(target: Target, path: str, other: str) -> None:
    """The model at ``path``; the case is skipped if it is not there by its ``other`` path either."""
    answer = await target.ask(f"{MODELS}/{path}")
    if answer.status != 200 and (await target.ask(f"{MODELS}/{other}")).status != 200:
        target.may_refuse(answer)
    check.equal(conform(answer.expect(200).json, Model, "the model").id, target.setup.model, "the model's id")


@PROFILE.case(
    "models.one", "A model can be retrieved, its slashes escaped", source=f"{_ONE}; openai-python escapes them"
)
async def one(target: Target) -> None:
    await _retrieved(target, quoted(target.setup.model), target.setup.model)


@PROFILE.case(
    "models.one-with-slash", "A model with a slash in its id can be retrieved", source=f"{_ONE}; RFC 3986 §3.3"
)
async def slash(target: Target) -> None:
    """curl sends the slash as it is."""
    if "/" not in target.setup.model:
        target.skip("the model's id has no slash")
    await _retrieved(target, target.setup.model, quoted(target.setup.model))


@PROFILE.case("models.unknown", "A model there is none of is a 404", source=_ONE)
async def unknown(target: Target) -> None:
    answer = await target.ask(f"{MODELS}/no-such-model-here")
    answer.expect(404)


@PROFILE.case(
    "models.unknown-error", "That 404 has an error object", source=f"{_ONE}; model_not_found", level=Level.SHOULD
)
async def unknown_error(target: Target) -> None:
    conform((await target.ask(f"{MODELS}/no-such-model-here")).expect(404).json, Error, "the error")
