"""A repository that makes cheap copies of trees, as CVMFS does: a directory whose trees begin as copies of a base."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cvmfsrepo.layout import Layout
from publisher.transactions.contract import Fill, Finish, Transaction
from publisher.transactions.directory import DirectoryTarget, DirectoryTransaction
from publisher.transactions.lock import Stopped, never


@dataclass
class CopyingTarget:
    """A `DirectoryTarget` whose transactions copy; `cut` are the places of nested catalogs, `began` the bases."""

    layout: Layout
    cut: list[Path] = field(default_factory=list)
    began: dict[Path, Path | None] = field(default_factory=dict)
    finish: Finish | None = None

    @contextmanager
    def begin(self, wait: float = 0, stopped: Stopped = never) -> Iterator[Transaction]:
        with DirectoryTarget(self.layout, durable=False).begin(wait, stopped) as inner:
            assert isinstance(inner, DirectoryTransaction)
            yield _Copying(inner, self)


class _Copying(DirectoryTransaction):
    """Filled in `show`, as late as the contract lets it be; owners, times, attributes and hard links are copied."""

    def __init__(self, inner: DirectoryTransaction, target: CopyingTarget) -> None:
        super().__init__(inner.layout, durable=False)
        self._target = target
        self._trees: list[tuple[Path, Fill, Path | None]] = []

    def add_tree(self, final: Path, fill: Fill, base: Path | None = None) -> None:
        self._trees.append((final, fill, base))
        self._target.began[final] = base

    def cut_catalog(self, directory: Path) -> None:
        self._target.cut.append(directory)

    def show(self) -> None:
        for final, fill, base in self._trees:
            staged = self.stage()
            if base is None:
                staged.mkdir()
            else:
                _copy(base, staged)
            fill(staged, base is not None)
            self.add(staged, final)
        super().show()


def _copy(base: Path, staged: Path) -> None:
    import subprocess

    cp = shutil.which("cp")
    assert cp is not None
    subprocess.run([cp, "-a", "--preserve=all", os.fspath(base), os.fspath(staged)], check=True)
