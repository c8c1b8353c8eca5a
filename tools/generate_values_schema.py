"""Write `config` in the chart's values.schema.json from the structs, or with --check tell whether it is stale. (IO)

The rest of that file is written by hand. What a schema of JSON cannot say, the program says when it reads the values.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway.config.decode import Duration, Hidden, Section  # noqa: E402
from gateway.config.schema import portable  # noqa: E402
from gateway.config.settings import AdminListener, ExtProcListener, GrpcListener, HttpListener, Settings  # noqa: E402

FILE = ROOT / "charts" / "infer-gateway" / "values.schema.json"
Schema = dict[str, Any]
LEFT_OUT = {
    HttpListener: ("address", "tls"),
    GrpcListener: ("address", "tls"),
    AdminListener: ("address", "tls", "tokenFile", "anonymousMetrics"),
    ExtProcListener: ("address", "healthAddress", "pool", "tls", "selfSigned"),
}
"""What other values say."""
DURATION: Schema = {
    "type": ["string", "integer"],
    "pattern": "^(0|([0-9]+([.][0-9]+)?(ns|us|µs|μs|ms|s|m|h))+)$",
    "maximum": 0,
    "minimum": 0,
}
LEAVES = {str: "string", Hidden: "string", bool: "boolean", int: "integer", float: "number"}
BOUNDS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}


def schema(kind: Any) -> Schema:
    """Of a Section or of what its members are. Raises TypeError for anything else."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in LEAVES:
        return {"type": LEAVES[kind]}
    if kind is Any:
        return {}
    if isinstance(kind, type) and issubclass(kind, Duration):
        return DURATION
    if isinstance(kind, type) and issubclass(kind, Section):
        return section(kind)
    if origin is typing.Annotated:
        return bounded(schema(arguments[0]), arguments[1:])
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(arguments[1])}
    if origin in (typing.Union, types.UnionType):
        made = [{"type": "null"} if each is types.NoneType else schema(each) for each in arguments]
        return {"anyOf": made}
    raise TypeError(f"no schema for {kind}")


def section(kind: type[Section]) -> Schema:
    left_out = LEFT_OUT.get(kind, ())
    fields = [each for each in msgspec.structs.fields(kind) if each.encode_name not in left_out]
    made: Schema = {"type": "object", "additionalProperties": False}
    made["properties"] = {each.encode_name: schema(each.type) for each in fields}
    required = [each.encode_name for each in fields if each.required]
    return made | ({"required": required} if required else {})


def bounded(made: Schema, bounds: tuple[Any, ...]) -> Schema:
    least, most = BOUNDS.get(made.get("type", ""), ("", ""))
    for meta in bounds:
        if not isinstance(meta, msgspec.Meta):
            continue
        given = {
            least: meta.min_length,
            most: meta.max_length,
            "minimum": meta.ge,
            "maximum": meta.le,
            "exclusiveMinimum": meta.gt,
            "exclusiveMaximum": meta.lt,
            "pattern": meta.pattern and portable(meta.pattern),
        }
        made = made | {name: value for name, value in given.items() if value is not None}
    return made


def text(written: str) -> str:
    """The file with that section as it should be."""
    tree = json.loads(written)
    tree["properties"]["config"] = schema(Settings)
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str], file: Path = FILE) -> int:
    written = file.read_text("utf-8")
    wanted = text(written)
    if "--check" not in arguments:
        file.write_text(wanted, "utf-8")
    elif written != wanted:
        print(f"{file.name}: out of date; `make proto` writes it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
