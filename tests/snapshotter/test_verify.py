"""What differences between a served tree and the original mean, and what happens when the served one hangs."""

import stat
from pathlib import Path

import msgspec
import pytest

from cvmfsrepo.compare import differences
from cvmfsrepo.errors import Unavailable
from cvmfsrepo.tree import Entry
from snapshotter import verify
from snapshotter.verify import Trees, compare_trees, sorted_out
from tests.mounting import standin

FILE = Entry(b"f", stat.S_IFREG | 0o644, mtime=1_500_000_000, size=3, xattrs={"security.capability": b"c"})
LINK = msgspec.structs.replace(FILE, path=b"g", xattrs={"user.a": b"1"})
ROOT = Entry(b"", stat.S_IFDIR | 0o755)


def trees(*found: Entry, expected: tuple[Entry, ...] = (ROOT, FILE, LINK)) -> Trees:
    left, right = ({entry.path: entry for entry in every} for every in (expected, found))
    return Trees(left, right, list(differences(left, right)), 0)


def changed(entry: Entry, **fields: object) -> Entry:
    return msgspec.structs.replace(entry, **fields)


def test_equal_trees_have_neither_losses_nor_faults() -> None:
    """And are called equal."""
    found = sorted_out(trees(ROOT, FILE, LINK))
    assert (found.equal, found.losses, found.faults, found.entries) == (True, (), (), 3)


def test_what_publication_is_known_to_lose_has_a_name() -> None:
    """Owners that all became one, attributes, capabilities and parts of a second: each told once, with its paths."""
    lost = {"uid": 993, "gid": 990, "xattrs": {}, "mtime": 1_000_000_000}
    found = sorted_out(trees(ROOT, changed(FILE, **lost), changed(LINK, **lost)))
    assert found.faults == ()
    assert not found.equal
    assert {loss.what: loss.count for loss in found.losses} == {
        "owners": 2, "extended attributes": 1, "file capabilities": 1, "parts of a second": 2,
    }  # fmt: skip
    (owners,) = (loss for loss in found.losses if loss.what == "owners")
    assert owners.examples == ("/f", "/g")
    assert "993:990" in owners.why


def test_hard_links_that_became_files_are_a_loss() -> None:
    """Names that a mount shows as files of their own; names that are linked otherwise are a fault."""
    linked = (ROOT, changed(FILE, group=1), changed(LINK, group=1))
    assert [loss.what for loss in sorted_out(trees(ROOT, FILE, LINK, expected=linked)).losses] == ["hard links"]
    found = sorted_out(trees(*linked, expected=(ROOT, FILE, LINK)))
    assert {fault.field for fault in found.faults} == {"hard-links"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("mode", stat.S_IFREG | 0o600), ("size", 4), ("mtime", 2_000_000_000), ("xattrs", {"security.capability": b"d"})],
)
def test_everything_else_is_a_fault(field: str, value: object) -> None:
    """With what was expected and found."""
    found = sorted_out(trees(ROOT, changed(FILE, **{field: value}), LINK))
    assert [(fault.path, fault.field) for fault in found.faults] == [("/f", field)]
    assert found.losses == ()


def test_owners_that_differ_among_themselves_are_faults() -> None:
    """One owner for everything is a claim; two are something else, and so is one that the image has itself."""
    found = sorted_out(trees(ROOT, changed(FILE, uid=1), changed(LINK, uid=2)))
    assert [fault.field for fault in found.faults] == ["uid", "uid"]
    owned = (ROOT, changed(FILE, uid=1), changed(LINK, uid=2))
    found = sorted_out(trees(ROOT, changed(FILE, uid=2), changed(LINK, uid=2), expected=owned))
    assert [loss.what for loss in found.losses] == ["owners"]
    found = sorted_out(trees(ROOT, changed(FILE, uid=0), changed(LINK, uid=2), expected=owned))
    assert [fault.field for fault in found.faults] == ["uid"]


def test_missing_and_additional_names_are_faults() -> None:
    """But for a file that is named like CVMFS's own marker, which cannot be told from one."""
    marker = changed(FILE, path=b"d/.cvmfscatalog")
    found = sorted_out(trees(ROOT, FILE, changed(FILE, path=b"new"), expected=(ROOT, FILE, LINK, marker)))
    assert {(fault.path, fault.field) for fault in found.faults} == {("/g", "missing"), ("/new", "extra")}
    assert [loss.what for loss in found.losses] == ["files named like a catalog marker"]


@pytest.mark.root
@pytest.mark.fuse
def test_a_tree_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so long without any progress, with how far it came; an error of the file system is told at once."""
    monkeypatch.setattr(verify, "SILENCE", 1.0)
    original, served = tmp_path / "original", tmp_path / "served"
    for directory in (original, served):
        directory.mkdir()
        for name in ("one", "two"):
            (directory / name).write_text(name)
    with standin(served, tmp_path / "cvmfs") as client:
        client.fault("stall", "/two", operations=["read"])
        with pytest.raises(Unavailable, match="2 of 2 files"):
            compare_trees(original, tmp_path / "cvmfs", ())
        client.clear()
        client.fault("eio", "/one")
        with pytest.raises(Unavailable, match="Input/output error"):
            compare_trees(original, tmp_path / "cvmfs", ())
