"""A publication into CVMFS: staged in a local directory, and moved into the repository when it is complete.

The two ways that `cvmfs_server` has were compared. A transaction with `publish` keeps owners, modes and, with
CVMFS_INCLUDE_XATTRS, extended attributes, and stores large files in chunks; but it takes a device 0:0 and a `.wh.` name
for a deletion. `ingest` of a tar stores these as they are; but it drops all extended attributes, so file capabilities,
and does not chunk. So everything goes through a transaction but what that would take for a deletion, which an ingest
adds afterwards; it leaves the metadata of directories that are there alone. An ingest needs a base directory below the
root in the versions in use, so it cannot carry announcements too: a second transaction publishes them last. An image
without deletions is one publication; one with some is three.

The transaction is opened when all is downloaded and unpacked, and is open for as long as it takes to copy that.
Directories are removed in the transaction as well; `cvmfs_server ingest -d` would be quicker for large ones.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from cvmfsrepo.errors import ContractError
from cvmfsrepo.layout import CATALOG_MARKER, Layout
from cvmfsrepo.repository import Repository
from publisher.transactions.collected import Collected, make_directories, write_file
from publisher.transactions.contract import Fill, Finish
from publisher.transactions.copying import LONGEST_VALUE, Copied
from publisher.transactions.directory import refusal
from publisher.transactions.pending import Pending
from publisher.unpacking.removal import remove_tree

Template = tuple[str, str]
"""A directory of the repository and the new one that begins as its copy, relative to the root."""

Warn = Callable[[str], None]


class Server(Protocol):
    """What `cvmfs_server` does for one repository."""

    def is_open(self) -> bool: ...
    def open(self, wait: float, template: Template | None) -> None: ...
    def publish(self) -> None: ...
    def abort(self) -> None: ...
    def ingest(self, tar: Path, base: str) -> None: ...


class Marked:
    """Transactions of the server that a later run can tell from those of others. Ours holds a file with a random name,
    which `mark` in our state repeats. It goes right before the publication, which nobody else can come between."""

    def __init__(self, server: Server, root: Path, mark: Path, warn: Warn) -> None:
        self._server, self._root, self._mark, self._warn = server, root, mark, warn

    @contextmanager
    def opened(self, wait: float, template: Template | None = None) -> Iterator[None]:
        """Published at the end of the block, aborted where that or the block fails."""
        token = self._root / f".cvmfs-publisher-{secrets.token_hex(8)}"
        self._mark.write_text(token.name)
        self._server.open(wait, template)
        try:
            token.touch()
            yield
            self._mark.write_text("")
            token.unlink()
            self._server.publish()
        except BaseException as error:
            self._give_up(error)
            raise
        self._mark.unlink()

    def recover(self) -> None:
        """Aborts what a run of ours left open when it was killed, and nothing of somebody else's."""
        if self._mark.exists():
            token = self._mark.read_text()
            if (not token or os.path.lexists(self._root / token)) and self._server.is_open():
                self._server.abort()
            self._mark.unlink()

    def _give_up(self, error: BaseException) -> None:
        """The first error is what propagates; where the abort fails too, the mark stays for the next run."""
        try:
            if self._server.is_open():
                self._server.abort()
            self._mark.unlink()
        except ContractError as failure:
            error.add_note(str(failure))
            self._warn(str(failure))


class CvmfsTransaction(Collected):
    """`cvmfs_server` is not called before `show`."""

    def __init__(
        self, layout: Layout, state: Path, server: Server, wait: float, warn: Warn, finish: Finish | None = None
    ) -> None:
        super().__init__(layout, state / "staging")
        self._finish = finish
        self._server, self._wait, self._warn = server, wait, warn
        self._pending = Pending(state / "pending", layout.root)
        self._marked = Marked(server, layout.root, state / "transaction", warn)
        self._catalogs: dict[Path, None] = {}
        self._tree: tuple[Path, Path, Fill] | None = None

    @property
    def copies(self) -> bool:
        return True

    def add_tree(self, final: Path, fill: Fill, base: Path | None = None) -> None:
        """One tree of a publication can begin as a copy, of catalogs only: the first that has a base, where the
        directory around it is there. The others are filled in the staging area."""
        if base and not self._tree and base.is_dir() and final.parent.is_dir() and not os.path.lexists(final):
            self._tree = (base, final, fill)
        else:
            super().add_tree(final, fill)

    def cut_catalog(self, directory: Path) -> None:
        above = [path for path in directory.parents if self.layout.root in path.parents]
        for each in (directory, *above):
            if not (each / CATALOG_MARKER).exists():
                self._catalogs[each] = None

    def show(self) -> None:
        """By one publication, or by three where there are deletions; by none where nothing is to be changed."""
        removals = self._removed()
        copied, shown = Copied(), False
        if self._content or self._tree or self._catalogs:
            revision = self._next_revision()
            with self._open(self._template()):
                self._show_content(copied)
                if not (held := self._pending.add(copied.held_back)):
                    self._show_rest(copied, removals, revision)
            shown, self.changed = not held, True
            self._pending.complete(self._server.ingest)
        if not shown and (self._announcements or removals or self._is_due()):
            revision = self._next_revision()
            with self._open():
                self._show_rest(copied, removals, revision)
            self.changed = True
        self._tell(copied)

    def recover(self) -> None:
        """Ends what a killed run left: its transaction, its staging area, its half of a publication."""
        self._marked.recover()
        self.clear()
        self._pending.complete(self._server.ingest)

    @contextmanager
    def _open(self, template: Template | None = None) -> Iterator[None]:
        with self._marked.opened(self._wait, template):
            try:
                yield
            except OSError as error:
                raise refusal(self.layout, error) from error

    def _template(self) -> Template | None:
        if self._tree is None:
            return None
        base, final, _ = self._tree
        return str(base.relative_to(self.layout.root)), str(final.relative_to(self.layout.root))

    def _show_content(self, copied: Copied) -> None:
        for staged, final in self._content:
            self._place(staged, final, copied)
        if self._tree is not None:
            _, final, fill = self._tree
            fill(final, True)
        for directory in self._catalogs:
            write_file(directory / CATALOG_MARKER, b"")

    def _next_revision(self) -> int | None:
        """The one that a transaction which is opened now publishes. Somebody else's that is waited for makes it a later
        one: then what tells of a revision is not believed, and nothing worse."""
        mounted = Repository(str(self.layout.root), self.layout).find_revision()
        return None if mounted is None else mounted + 1

    def _show_rest(self, copied: Copied, removals: list[Path], revision: int | None) -> None:
        made = [(self._written(make(revision)), final) for make, final in self._made]
        for staged, final in (*self._announcements, *made):
            self._place(staged, final, copied)
        for final in removals:
            _remove(final)
        if self._finish:
            self._finish.make(self.layout, is_changing=True)

    def _is_due(self) -> bool:
        return self._finish is not None and (self.changed or self._finish.is_due(self.layout))

    def _place(self, staged: Path, final: Path, copied: Copied) -> None:
        make_directories(final.parent, self.layout.root)
        _remove(final)
        copied.copy(staged, final)

    def _tell(self, copied: Copied) -> None:
        """Warns of what this publication could not keep; that xattrs are left out altogether is said at its begin."""
        for paths, problem in (
            (copied.too_long, f"have an attribute of more than {LONGEST_VALUE} bytes, which CVMFS does not store"),
            (copied.unmarked, "are opaque, and this kernel takes no such mark in a transaction"),
        ):
            if paths:
                names = ", ".join(repr(os.fsdecode(path)) for path in paths[:10])
                self._warn(f"{len(paths)} published paths {problem}: {names}" + (", ..." if len(paths) > 10 else ""))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
