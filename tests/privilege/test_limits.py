"""More than a node should have to build: refused, with the number, in bounded time and memory."""

import os
import time
from pathlib import Path

import pytest

from cvmfsrepo import shims
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.outline import Outline, Source
from cvmfsrepo.repository import Repository, deadline_in
from cvmfsrepo.tree import HEAD_LIMIT, NAMES_LIMIT, Entry
from snapshotter import labels as label
from snapshotter.config import Config
from snapshotter.server import opened
from tests.privilege.asking import OWN_ROOT, assert_served, reason, record
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.suites.contract import fresh

pytestmark = pytest.mark.root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"whiteouts": tuple(b"d/x%06d" % number for number in range(100_000))}, f"length <= {NAMES_LIMIT}"),
        ({"opaques": tuple(b"d/x%06d" % number for number in range(100_000))}, f"length <= {NAMES_LIMIT}"),
        ({"extras": tuple(b"x%06d" % number for number in range(100_000))}, f"length <= {NAMES_LIMIT}"),
        (
            {"whiteouts": tuple(b"w%d" % n for n in range(NAMES_LIMIT)), "opaques": (b"o",)},
            f"markers, and a node takes {NAMES_LIMIT}",
        ),
        ({"whiteouts": tuple(b"%d" % n + b"/a" * 2000 for n in range(1000))}, "paths longer than a node takes"),
        ({"whiteouts": tuple(b"%d" % n + b"/a" * 20 for n in range(6_000))}, "inodes, and"),
        ({"directories": (OWN_ROOT, Entry(b"d", 0o40755, xattrs={"user.x": bytes(HEAD_LIMIT)}))}, "unpacks to more"),
    ],
)
def test_more_than_a_node_takes(repository: HandMade, config: Config, fields: dict[str, object], words: str) -> None:
    """Many markers, deep ones, a large head: refused within the deadline, with the number, and without a trace."""
    layer = repository.add("base")
    repository.write_record(layer, record(layer, **fields))
    with opened(config) as verbs:
        started = time.monotonic()
        said = reason(verbs, layer)
        assert time.monotonic() - started < 8
    assert said.startswith("markers-unavailable: ")
    assert words in said
    assert [path for path in Path(config.root, "shims").iterdir() if len(os.listdir(path)) > 2] == []


def test_more_markers_in_the_tree_than_a_node_takes(repository: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk finds them without a record: the same limit."""
    layer = repository.add("base", {f"d/.wh.{number}": "" for number in range(200)})
    served = Repository(NAME, repository.layout)
    assert len(served.get_outline(layer, deadline_in(60)).whiteouts) == 200
    monkeypatch.setattr("cvmfsrepo.repository.NAMES_LIMIT", 199)
    with pytest.raises(DataLoss, match="has 201 markers, and a node takes 199"):  # the root's catalog is hidden too
        served.get_outline(layer, deadline_in(60))
    monkeypatch.setattr("cvmfsrepo.walk.NAMES_LIMIT", 199)
    with pytest.raises(DataLoss, match="has more than 199 markers or"):
        served.get_outline(layer, deadline_in(60))
    monkeypatch.setattr("cvmfsrepo.walk.DIRECTORIES_LIMIT", 1)
    with pytest.raises(DataLoss, match="or 1 directories"):
        served.get_outline(layer, deadline_in(60))


def test_the_time_to_plan_a_shim_grows_with_its_size() -> None:
    """Not with its square: as many markers and implied directories as a record may have take seconds."""
    outline = Outline(
        Source.RECORD,
        whiteouts=tuple(b"w%05d" % number for number in range(NAMES_LIMIT)),
        hidden=tuple(b".wh.w%05d" % number for number in range(NAMES_LIMIT)),
        directories=(OWN_ROOT, *(Entry(b"d%05d" % number, 0o40755, implied=True) for number in range(NAMES_LIMIT))),
    )
    started = time.monotonic()
    assert len(shims.hide_shim(outline, shims.nothing_below).whiteouts) == NAMES_LIMIT
    assert time.monotonic() - started < 10


def test_own_files_named_like_a_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that shines through is copied into the shim: a base with very many of them must not fill the memory."""
    outline = Outline(Source.RECORD, hidden=tuple(b"d%03d/.cvmfscatalog" % number for number in range(300)))
    with pytest.raises(DataLoss, match="more than 256 files named like a catalog marker"):
        shims.hide_shim(outline, lambda path: shims.Found(Entry(path, 0o100644)) if path else None)


def test_a_large_file_named_like_a_catalog(repository: HandMade, config: Config) -> None:
    """One of the image's own is copied into the shim above the layer that hides it: whole, or the layer is a miss."""
    base, top = repository.add("base", {"d/.cvmfscatalog": "x" * 70_000}), repository.add("top", {"d/file": ""})
    repository.write_record(base, record(base, own_catalogs=(b"d/.cvmfscatalog",)))
    repository.write_record(top, record(top, extras=(b"d/.cvmfscatalog",)))
    with opened(config) as verbs:
        name, key = assert_served(verbs, base), fresh("extract")
        verbs.prepare(key, name, pull(key, top))
        said = verbs.stat(key).labels[label.MISS]
    assert said.startswith("markers-unavailable: ")
    assert "has more than 65536 bytes" in said
