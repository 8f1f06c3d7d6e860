"""What a publication can do, in whatever kind of repository: all of it becomes visible, or nothing.

A transaction collects what is to change while the repository is read as it was, and `show` makes the change. So an
error of the body costs the repository nothing. The order in which readers see things:

1. content (`add`, `add_file`, `add_link`, `add_tree`), which nobody finds yet;
2. announcements (`announce_file`, `announce_link`), which lead readers to content;
3. removals (`remove`), in the order of the calls: withdraw what leads to content before the content.

A run that is killed between two of these leaves content that nobody finds; the next one goes on with it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cvmfsrepo.layout import Layout
from publisher.transactions.lock import Stopped, never

Fill = Callable[[Path, bool], None]
"""Completes the tree of a directory; True where it began as a copy of the base, False where it is empty."""


class Finish(Protocol):
    """What stands in a repository and is computed from all of it, as a store for podman is."""

    def is_due(self, layout: Layout) -> bool:
        """Whether it has to be made though a publication changes nothing. Called often: one look."""

    def make(self, layout: Layout, is_changing: bool) -> bool:
        """Makes it of everything that a publication shows, after all else and as its last part; answers whether it was
        another before. In CVMFS that is inside the transaction: `is_changing`. Its errors are the publication's."""


class Transaction(Protocol):
    """One publication. Paths called `final` are paths of `layout`; `changed` says whether `show` changed anything."""

    @property
    def layout(self) -> Layout: ...

    @property
    def changed(self) -> bool: ...

    @property
    def staging(self) -> Path:
        """The directory in which everything is made: its disk is the one that may become full."""

    @property
    def copies(self) -> bool:
        """Whether the repository can make a tree as a copy of another that costs nothing, see `add_tree`."""

    def stage(self) -> Path:
        """A new path in the staging area, for the caller to make. Safe from several threads."""

    def add(self, staged: Path, final: Path) -> None:
        """Has a staged file, link or directory shown at `final`, in place of what is there. A directory that is
        replaced must be one that nobody is served from."""

    def add_file(self, content: bytes, final: Path) -> None:
        """Has a small file shown, unless it is there already with the same bytes."""

    def add_link(self, text: str, final: Path) -> None:
        """Has a relative link shown. One that leads somewhere already is left as it is."""

    def add_tree(self, final: Path, fill: Fill, base: Path | None = None) -> None:
        """Has a directory shown that `fill` completes, from a cheap copy of the shown tree `base` where the repository
        can make one. `fill` may be called as late as in `show`, and reads only shown and staged content."""

    def announce_file(self, content: bytes, final: Path) -> None:
        """`add_file` for what leads readers to content."""

    def announce_link(self, text: str, final: Path) -> None:
        """Has a relative link shown that leads readers to content, in place of one that leads elsewhere."""

    def announce_made(self, make: Callable[[int | None], bytes], final: Path) -> None:
        """Has a file shown, last of the announcements, whose content tells the revision that shows it: None in a
        repository without revisions. Where all else is as it was already, a repository with revisions is left alone."""

    def remove(self, final: Path) -> None:
        """Has a file, link or directory go; what is not there is passed over."""

    def cut_catalog(self, directory: Path) -> None:
        """Has a nested catalog begin at a shown or added directory, and at each directory above it below the root: so a
        publication changes few and small ones, and readers load no others. Only CVMFS has catalogs: elsewhere nothing.
        """

    def show(self) -> None:
        """Makes the change, and is called once. Where it raises, the repository is as before, or holds content
        besides that nobody is led to."""


class Target(Protocol):
    """A repository that can be published to."""

    @property
    def layout(self) -> Layout: ...

    @property
    def finish(self) -> Finish | None:
        """What each publication makes last."""

    def begin(self, wait: float = 0, stopped: Stopped = never) -> AbstractContextManager[Transaction]:
        """A transaction with an empty staging area, which holds the repository's publisher lock. Unavailable where
        another publisher holds it for longer than `wait` seconds, or until `stopped`, with who it is. What a block does
        not `show` is thrown away; its errors always propagate."""
