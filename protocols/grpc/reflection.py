"""Server reflection, v1 and v1alpha: which services there are, and the files that describe them. (T)

Invariant: a file is told with all it imports, so that what a client gets for one question can be understood by itself.
Whatever is asked, the stream goes on: what is not there is an error inside an answer. Source: the protos' comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpclib.const import Cardinality, Handler

from gateway.wire.grpc import Code
from protocols.grpc import standard


class Reflection:
    """Tells of ``services``, as they are mounted, itself included. ``files`` describe them, beside gRPC's own."""

    max_message = standard.MAX_MESSAGE

    def __init__(self, services: Iterable[Any], files: Iterable[FileDescriptor]) -> None:
        mounted = {path for service in services for path in service.__mapping__()}
        self._services = sorted({path.split("/")[1] for path in (*mounted, *self.__mapping__())})
        self._files = _Files((*files, *standard.FILES))

    def __mapping__(self) -> Mapping[str, Handler]:
        """The methods, for `protocols.grpc.server.Server`."""
        return {
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": self._handler(file)
            for version, file in standard.REFLECTION.items()
        }

    def _handler(self, file: FileDescriptor) -> Handler:
        request, response = (standard.message(file, f"ServerReflection{kind}") for kind in ("Request", "Response"))

        async def serve(stream: Any) -> None:
            stream.forget_headers()
            async for asked in stream:
                await stream.send_message(self._answer(asked, response))

        return Handler(serve, Cardinality.STREAM_STREAM, request, response)

    def _answer(self, asked: Any, response: Any) -> Any:
        answer = response(valid_host=asked.host, original_request=asked)
        kind = asked.WhichOneof("message_request")
        try:
            if kind is None:
                _refuse(answer, Code.INVALID_ARGUMENT, "nothing is asked")
            elif kind == "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            elif kind == "all_extension_numbers_of_type":
                told = answer.all_extension_numbers_response
                told.base_type_name = asked.all_extension_numbers_of_type
                told.extension_number.extend(self._files.extensions(asked.all_extension_numbers_of_type))
            else:
                file = getattr(self._files, kind)(getattr(asked, kind))
                answer.file_descriptor_response.file_descriptor_proto.extend(self._files.with_imports(file))
        except KeyError:
            _refuse(answer, Code.NOT_FOUND, f"not found: {kind} {str(getattr(asked, kind)).strip()}"[:_TEXT_MAX])
        return answer


_TEXT_MAX: Final = 200


def _refuse(answer: Any, code: Code, text: str) -> None:
    answer.ClearField("message_response")
    answer.error_response.error_code = code
    answer.error_response.error_message = text


class _Files:
    """Files by what is asked for; methods that find one are named as the requests are. All raise KeyError."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        self._pool = DescriptorPool()
        seen: set[str] = set()
        for file in _imports_first(files, seen):
            self._pool.AddSerializedFile(file.serialized_pb)

    def file_by_filename(self, name: str) -> FileDescriptor:
        return self._pool.FindFileByName(name)

    def file_containing_symbol(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # a method is not among the pool's symbols
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file

    def file_containing_extension(self, asked: Any) -> FileDescriptor:
        kind = self._pool.FindMessageTypeByName(asked.containing_type)
        extension = self._pool.FindExtensionByNumber(kind, asked.extension_number)
        return self._pool.FindFileContainingSymbol(extension.full_name)

    def extensions(self, name: str) -> list[int]:
        """The numbers of all known extensions of a message, in order."""
        kind = self._pool.FindMessageTypeByName(name)
        return sorted(extension.number for extension in self._pool.FindAllExtensions(kind))

    def with_imports(self, file: FileDescriptor) -> Sequence[bytes]:
        """The file and all it imports, itself first."""
        return [each.serialized_pb for each in reversed(list(_imports_first((file,), set())))]


def _imports_first(files: Iterable[FileDescriptor], seen: set[str]) -> Iterator[FileDescriptor]:
    for file in files:
        if file.name not in seen:
            seen.add(file.name)
            yield from _imports_first(file.dependencies, seen)
            yield file
