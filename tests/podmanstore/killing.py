"""Work that is killed at its n-th step: nothing that the process would do later gets through."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podmanstore import disk


class Killed(BaseException):
    """The process ends here: no more calls get through."""


_STEPS = ("mkdir", "rename", "symlink", "mknod", "rmdir", "unlink", "chmod", "fchmod", "write", "pwrite", "fsync")


def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes steps that change the disk count; what is answered kills at the n-th from now on, or with -1 at none."""
    state = {"left": -1}

    def stepping(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            if state["left"] == 0:
                raise Killed
            state["left"] -= 1
            return call(*arguments, **keywords)

        return step

    for name in _STEPS:
        monkeypatch.setattr(os, name, stepping(getattr(os, name)))
    for name in ("exchange", "persist"):
        monkeypatch.setattr(disk, name, stepping(getattr(disk, name)))

    def kill_at(number: int) -> None:
        state["left"] = number

    return kill_at


def kills(killing: Callable[[int], None], work: Callable[[], object]) -> Iterator[int]:
    """Does the work again and again, killed one step later each time, until it is not killed any more."""
    for number in range(3000):
        killing(number)
        try:
            work()
        except Killed:
            killing(-1)
            yield number
        else:
            killing(-1)
            return
    raise AssertionError("it never ends")
