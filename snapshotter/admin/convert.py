"""Values <-> messages: both have the same fields, so nothing stands here field by field.

Integers of 64 bits are text in protobuf's JSON form, hence `strict=False`.
"""

from typing import Any, TypeVar

import msgspec
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def to_message(value: object, kind: type[M]) -> M:
    """The message of a value; a field that is None stays unset."""
    fields: dict[str, object] = _without_nones(msgspec.to_builtins(value))
    return ParseDict(fields, kind())


def from_message(message: Message, kind: type[T]) -> T:
    """The value of a message; a newer daemon's fields are passed over."""
    fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return msgspec.convert(fields, kind, strict=False)


def _without_nones(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nones(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_nones(item) for item in value]
    return value
