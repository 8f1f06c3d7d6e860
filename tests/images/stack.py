"""A named stack of described layers, with what a person says must be in it and must not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tests.images.tarlayer import Entry, layer_tar

Layers = tuple[tuple[Entry, ...], ...]
Pull = Literal["same", "differs", "fails"]


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers from the base upwards.

    `present` and `absent` were written by hand, so that they can judge the oracle too. `pull` says whether
    containerd's overlayfs makes of the stack what the image specification says, and `pull_note` why not: a
    comparison with a real pull then finds differences that are the pull's own.
    """

    name: str
    shows: str
    layers: Layers
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    pull: Pull = "same"
    pull_note: str = ""
    closed: bool = True

    def tars(self) -> list[bytes]:
        return [layer_tar(entries, closed=self.closed) for entries in self.layers]


Body = Callable[[], Iterable[Iterable[Entry]]]


class Collection(dict[str, Stack]):
    """The stacks by name; a function decorated with `case` adds one: its name, its docstring, its layers."""

    def case(
        self,
        *,
        present: tuple[str, ...] = (),
        absent: tuple[str, ...] = (),
        pull: Pull = "same",
        pull_note: str = "",
        closed: bool = True,
    ) -> Callable[[Body], Body]:
        def add(body: Body) -> Body:
            name = body.__name__
            layers = tuple(tuple(layer) for layer in body())
            self[name] = Stack(name, (body.__doc__ or "").strip(), layers, present, absent, pull, pull_note, closed)
            return body

        return add
