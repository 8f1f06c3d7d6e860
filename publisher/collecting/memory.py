"""Since when nothing has led to a thing, and when a name was last wished for: one file outside of the repository.

Nothing in a repository proves it: times of files are those of publications, and a layer may have been without a name
for a year or for a second. So what is found unreachable is noted, and goes in a later run. A lost file costs one grace
period and nothing else. What becomes reachable, or is leased, is forgotten; when it is unreachable again, its time
begins anew.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cvmfsrepo.errors import DataLoss, FailedPrecondition
from publisher.durable import write_durably

_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Memory(msgspec.Struct, frozen=True):
    """Times in seconds since 1970: `since` by the keys of things, `wished` by names."""

    repository: str
    since: Mapping[str, _Seconds] = {}
    wished: Mapping[str, _Seconds] = {}
    version: Literal[1] = 1


_decode = msgspec.json.Decoder(Memory).decode


def aged(since: Mapping[str, float], unreachable: Iterable[str], now: float) -> dict[str, float]:
    """Since when each of these is unreachable; a time to come, of a clock that went wrong, counts as now."""
    return {key: min(since.get(key, now), now) for key in unreachable}


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """The memory of one repository in a directory of state."""

    path: Path
    repository: str

    @classmethod
    def at(cls, state: Path, repository: Path) -> "MemoryFile":
        return cls(state / "unreachable.json", str(repository.absolute()))

    def read(self) -> Memory:
        """An empty one where there is none. DataLoss where it is damaged, FailedPrecondition where it is of another
        repository; both before anything is removed."""
        try:
            memory = _decode(self.path.read_bytes())
        except FileNotFoundError:
            return Memory(self.repository)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            remedy = "remove it: then every grace period begins anew"
            raise DataLoss("state", str(self.path), f"does not parse: {error}", remedy) from None
        if memory.repository != self.repository:
            problem = f"is of the repository {memory.repository}"
            raise FailedPrecondition("state", str(self.path), problem, "give each repository a --state of its own")
        return memory

    def write(self, memory: Memory) -> None:
        """By rename, and only what has changed."""
        content = msgspec.json.encode(memory, order="sorted")
        if self.path.is_file() and self.path.read_bytes() == content:
            return
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_durably(self.path, content)
