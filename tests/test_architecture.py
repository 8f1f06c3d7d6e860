"""The rules of ARCHITECTURE.md hold for this repository, and the checker sees each of them broken."""

from pathlib import Path

import pytest

from tests.architecture import LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FUNCTION, violations, walk_sources

REPOSITORY = Path(__file__).resolve().parent.parent
DOC = '"""Says why."""\n'


def tree(root: Path, **files: str) -> Path:
    """A source tree; a double underscore in a key stands for a slash, and every file gets a docstring."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(DOC + text)
    return root


def test_this_repository_keeps_its_rules() -> None:
    """Direction of imports, edges, lengths, annotations, docstrings and names."""
    found = violations(REPOSITORY)
    assert not found, "\n".join(found)


def test_every_package_is_read() -> None:
    """The walk sees the packages; an empty walk would keep every rule."""
    packages = {path.parts[0] for path in walk_sources(REPOSITORY)}
    assert {"cvmfsrepo", "snapshotter", "podmanstore", "publisher", "tests", "tools"} <= packages


def test_a_tree_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    """What is allowed, in one tree: edges where they belong, a command line that composes, a re-raised exception."""
    root = tree(
        tmp_path,
        cvmfsrepo__xattrs="import os\nimport xattr\nos.getxattr('a', 'b')\n",
        cvmfsrepo__standin="import fuse\n",
        snapshotter__service="import grpc\ntry:\n    pass\nexcept Exception:\n    pass\n",
        snapshotter__convert="from protos.x import y_pb2\nfrom cvmfsrepo.errors import E\nfrom . import labels\n",
        snapshotter__metastore="import sqlite3\ntry:\n    pass\nexcept BaseException:\n    raise\n",
        snapshotter__cli__store="import podmanstore.plan\n",
        publisher__cli="import podmanstore.plan\n",
        publisher__transactions__cvmfs="import subprocess\n",
        tests__test_x="import subprocess, snapshotter, publisher, protos.x\n",
    )
    assert violations(root) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("cvmfsrepo__a", "import snapshotter.labels", "imports snapshotter.labels: cvmfsrepo may import ['cvmfsrepo']"),
        ("cvmfsrepo__a", "from protos import x", "imports protos.x"),
        ("snapshotter__a", "from publisher import flat", "imports publisher.flat: snapshotter may import"),
        ("snapshotter__a", "def f() -> None:\n    import podmanstore", "imports podmanstore"),
        ("snapshotter__cli__a", "from tests import demo", "imports tests.demo"),
        ("podmanstore__a", "from .. import publisher", "imports publisher"),
        ("podmanstore__a", "from ..snapshotter.labels import x", "imports snapshotter.labels.x"),
        ("publisher__a", "from snapshotter.labels import x as y", "imports snapshotter.labels.x"),
        ("publisher__cli", "import tools", "imports tools"),
        ("tools__a", "import tests", "imports tests"),
        ("snapshotter__a", "import grpc", "uses grpc: only snapshotter/service.py"),
        ("cvmfsrepo__a", "from grpc import aio", "uses grpc.aio"),
        ("snapshotter__a", "from google.protobuf import empty_pb2", "uses google.protobuf.empty_pb2"),
        ("snapshotter__a", "from protos.x import y_pb2", "uses protos.x.y_pb2"),
        ("snapshotter__snapshotter", "import sqlite3 as s", "uses sqlite3: only snapshotter/metastore.py"),
        ("snapshotter__a", "import prometheus_client", "uses prometheus_client: only snapshotter/metrics.py"),
        ("snapshotter__a", "import fuse", "uses fuse: only cvmfsrepo/standin.py"),
        ("publisher__a", "import xattr", "uses xattr: only cvmfsrepo/xattrs.py"),
        ("publisher__a", "import os\nos.setxattr('a', 'b', b'')", "uses os.setxattr"),
        ("publisher__a", "from os import listxattr", "uses os.listxattr"),
        ("snapshotter__a", "import subprocess", "uses subprocess: only publisher/transactions/cvmfs.py"),
        ("snapshotter__a", "import os\nos.system('x')", "uses os.system"),
        ("snapshotter__a", "import importlib\nimportlib.import_module('grpc')", "imports at run time"),
        ("snapshotter__a", "__import__('grpc')", "imports at run time"),
        ("config__a", "", "code in config/"),
        ("snapshotter__a", "\n" * LONGEST_FILE, "a file has less than"),
        ("tests__a", "\n" * LONGEST_FILE, "a file has less than"),
        ("cvmfsrepo__a", "def f() -> None:\n" + "    x = 1\n" * LONGEST_FUNCTION, "f has 61 lines"),
        ("cvmfsrepo__a", "def _f() -> None:\n" + "    x = 1\n" * MEDIAN_FUNCTION, "median length"),
        ("cvmfsrepo__a", "def f(x) -> None: ...", "f: parameter x has no annotation"),
        ("cvmfsrepo__a", "def f(*x, **y: int) -> None: ...", "f: parameter x has no annotation"),
        ("cvmfsrepo__a", "async def f(): ...", "f: the result has no annotation"),
        ("tests__a", "def f(): ...", "f: the result has no annotation"),
        ("cvmfsrepo__a", "class _C:\n    def m(self, x) -> None: ...", "m: parameter x has no annotation"),
        ("cvmfsrepo__a", "class _C:\n    @staticmethod\n    def m(x) -> None: ...", "m: parameter x has no annotation"),
        ("cvmfsrepo__a", "class C: ...", "C has no docstring"),
        ("cvmfsrepo__a", "def f() -> None:\n" + "    x = 1\n" * 12, "f has no docstring"),
        ("tests__a", "def test_x() -> None: ...", "test_x has no docstring"),
        ("cvmfsrepo__a", "def f() -> None:\n    msgspec.json.decode(b, type=A)", "make a Decoder at the top"),
        ("cvmfsrepo__a", "def f() -> None:\n    msgspec.convert(b, A)", "make a Decoder at the top"),
        ("snapshotter__utils", "", "module utils: the name"),
        ("publisher__tar_helpers", "", "module tar_helpers: the name"),
        ("cvmfsrepo__a", "def handle_x() -> None: ...", "handle_x: the name"),
        ("cvmfsrepo__a", "def _do_x() -> None: ...", "_do_x: the name"),
        ("cvmfsrepo__a", "class _LayerManager: ...", "_LayerManager: the name"),
        ("cvmfsrepo__a", "try:\n    pass\nexcept Exception:\n    raise", "catches everything"),
        ("cvmfsrepo__a", "try:\n    pass\nexcept:\n    pass", "catches everything"),
        ("cvmfsrepo__a", "try:\n    pass\nexcept (OSError, BaseException):\n    pass", "catches everything"),
        (
            "snapshotter__service",
            "try:\n    pass\nexcept Exception:\n    pass\n" * 2,
            "snapshotter/service.py:8: catches everything",
        ),
    ],
)
def test_a_broken_rule_is_seen(tmp_path: Path, name: str, text: str, problem: str) -> None:
    """One offence in a tree of one file: a finding names it."""
    found = violations(tree(tmp_path, **{name: text + "\n"}))
    assert [finding for finding in found if problem in finding], found


def test_a_module_without_a_docstring_is_seen(tmp_path: Path) -> None:
    """The tree builder above gives every file one, so this stands apart."""
    (tmp_path / "publisher").mkdir()
    (tmp_path / "publisher" / "a.py").write_text("x = 1\n")
    assert violations(tmp_path) == ["publisher/a.py:1: the module has no docstring"]
