"""gRPC's own services: health and reflection. (T)"""

from __future__ import annotations

import trio
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from conformance.cases.grpc.calls import linked, path
from conformance.cases.grpc.messages import HEALTH, REFLECTION, SERVICE, api
from conformance.cases.grpc.profile import NEEDS, PROFILE
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.target import Target

_HEALTH = "grpc doc/health-checking.md"
_REFLECTION = "grpc doc/server-reflection.md"
_CHECK, _WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
_SERVING, _SERVICE_UNKNOWN = 1, 3


@PROFILE.case("health.check", "Health says SERVING of the server and of the service", source=_HEALTH, needs=NEEDS)
async def health(target: Target) -> None:
    async with linked(target) as link:
        for name in ("", SERVICE):
            asked = HEALTH["HealthCheckRequest"](service=name)
            call = (await link.unary(_CHECK, asked, HEALTH["HealthCheckResponse"], key="")).expect(rpc.OK)
            check.equal(call.received[0].status, _SERVING, f"the status of {name!r}")


@PROFILE.case("health.unknown", "A service that nobody knows is NOT_FOUND", source=_HEALTH, needs=NEEDS)
async def unknown(target: Target) -> None:
    async with linked(target) as link:
        asked = HEALTH["HealthCheckRequest"](service="no.such.Service")
        (await link.unary(_CHECK, asked, HEALTH["HealthCheckResponse"], key="")).expect(rpc.NOT_FOUND)


@PROFILE.case("health.watch", "A watcher has the status at once, and stays", source=_HEALTH, needs=NEEDS)
async def watch(target: Target) -> None:
    for name, expected in ((SERVICE, _SERVING), ("no.such.Service", _SERVICE_UNKNOWN)):
        async with linked(target) as link:
            call = await link.open(_WATCH, HEALTH["HealthCheckResponse"], key="")
            await call.send(HEALTH["HealthCheckRequest"](service=name), end=True)
            with trio.move_on_after(3):
                first = await call.next()
                check.equal(first and first.status, expected, f"the status of {name!r}")
                with trio.move_on_after(0.2):
                    await call.over.wait()
                check.true(not call.over.is_set(), "the watch has ended", "open", call.fields)
                continue
            check.fail(f"a watcher of {name!r} has heard nothing within 3 s", expected)


async def _asked(target: Target, version: str, **asked: str) -> list[object]:
    """The answers to each question, in order, on one stream."""
    async with linked(target) as link:
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        call = await link.open(method, REFLECTION["Response"], key="")
        found = []
        for name, value in asked.items():
            await call.send(REFLECTION["Request"](**{name.rstrip("_"): value}))
            answer = await call.next()
            if answer is None:
                call.expect(rpc.OK)
                check.fail("the stream of reflection has ended", f"an answer to {name}", call.fields)
            found.append(answer)
        await call.send_raw(b"", end=True)
        (await call.finish()).expect(rpc.OK)
        return found


def _listing(version: str) -> None:
    async def run(target: Target) -> None:
        (answer,) = await _asked(target, version, list_services="*")
        names = [service.name for service in answer.list_services_response.service]  # type: ignore[attr-defined]
        check.contains(names, SERVICE, "the services")
        check.contains(names, "grpc.health.v1.Health", "the services")

    level = Level.SHOULD
    title = f"Reflection {version} lists the services, to anybody"
    PROFILE.case(f"reflection.{version}", title, source=_REFLECTION, level=level, needs=NEEDS)(run)


_listing("v1")
_listing("v1alpha")


@PROFILE.case(
    "reflection.file",
    "Reflection tells the file of the service as the contract has it",
    source=_REFLECTION,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def file(target: Target) -> None:
    (answer,) = await _asked(target, "v1", file_containing_symbol=SERVICE)
    told = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]  # type: ignore[attr-defined]
    services = {f"{each.package}.{service.name}": service for each in told for service in each.service}
    check.contains(list(services), SERVICE, "the services of the files told")
    contract = api.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]
    found = {method.name: method.server_streaming for method in services[SERVICE].method}
    check.equal(sorted(found), sorted(method.name for method in contract.methods), "the methods")


@PROFILE.case(
    "reflection.unknown",
    "What reflection does not know is told inside the stream, which goes on",
    source=_REFLECTION,
    level=Level.SHOULD,
    needs=NEEDS,
)
async def reflection_unknown(target: Target) -> None:
    first, second = await _asked(target, "v1", file_containing_symbol="no.such.Symbol", list_services="*")
    check.equal(first.error_response.error_code, rpc.NOT_FOUND, "error_code")  # type: ignore[attr-defined]
    check.true(second.list_services_response.service, "the next question is not answered")  # type: ignore[attr-defined]


@PROFILE.case("no-method", "A method that is not there: UNIMPLEMENTED", source="grpc doc/statuscodes.md", needs=NEEDS)
async def no_method(target: Target) -> None:
    async with linked(target) as link:
        for name in (path("NoSuchMethod"), "/no.such.Service/Method", "/", f"/{SERVICE}", path("createChatCompletion")):
            call = await link.unary(name, b"", api.ListModelsResponse)
            call.expect(rpc.UNIMPLEMENTED)
