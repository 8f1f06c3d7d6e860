"""Content digests: parsed or refused, never passed on as loose strings.

A digest arrives in labels, file names and JSON, all of them hostile input that ends up in paths.
Source: OCI image specification, "Descriptors / Digests" and "Layer ChainID".
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cvmfsrepo.errors import InvalidArgument

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest: `hex` is exactly 64 lower-case hexadecimal digits."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise InvalidArgument("digest", self.hex, "is not 64 lower-case hexadecimal digits")

    @classmethod
    def parse(cls, text: str, thing: str = "digest") -> Self:
        """`sha256:<64 hex>` and nothing else; `thing` names the input in the error."""
        algorithm, _, digits = text.partition(":")
        if algorithm != "sha256" or not _HEX.fullmatch(digits):
            raise InvalidArgument(thing, text, "is not sha256: followed by 64 lower-case hexadecimal digits")
        return cls(digits)

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(hashlib.sha256(content).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


def chain_id(diff_ids: Iterable[Digest]) -> Digest:
    """OCI's chain id of a non-empty sequence of diff ids, base first."""
    chain: Digest | None = None
    for diff_id in diff_ids:
        chain = diff_id if chain is None else Digest.of(f"{chain} {diff_id}".encode())
    if chain is None:
        raise InvalidArgument("chain of layers", (), "is empty and has no chain id")
    return chain
