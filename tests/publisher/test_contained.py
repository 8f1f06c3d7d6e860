"""Nothing of an archive is written outside of its layer, whatever its names and links say."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.errors import InvalidArgument
from publisher.unpacking.contained import LONGEST_PATH, Inside, contained
from tests.images.tarlayer import Dir, Entry, Fifo, File, Hardlink, Symlink, Whiteout, layer_tar
from tests.publisher.publishing import make_image, make_repository, publish, state

root = pytest.mark.root

ATTACKS: dict[str, Sequence[Entry]] = {
    "absolute": [File("/outside/x")],
    "climbing": [File("../outside/x")],
    "climbing in the middle": [Dir("d"), File("d/../../outside/x")],
    "climbing to the same place": [Dir("d"), File("d/../x")],
    "climbing by a directory": [Dir("../outside/new")],
    "absolute hard link": [Hardlink("x", "/outside/target")],
    "climbing hard link": [Hardlink("x", "../../../../outside/target")],
    "hard link through a symlink": [Symlink("out", "{outside}"), Hardlink("x", "out/target")],
    "hard link to a symlink's target": [Symlink("s", "{outside}"), Hardlink("s2", "s"), File("s2/x")],
    "hard link to nothing": [Hardlink("x", "nowhere")],
    "hard link to a directory": [Dir("d"), Hardlink("x", "d")],
    "hard link to itself": [Hardlink("x", "x")],
    "hard link to what was there": [File("x"), Hardlink("x", "x")],
    "through a symlink": [Symlink("out", "{outside}"), File("out/x")],
    "through a relative symlink": [Symlink("out", "../../../outside"), File("out/x")],
    "through a symlink within the layer": [Dir("d"), Symlink("in", "d"), File("in/x")],
    "through two symlinks": [Symlink("a", "b"), Symlink("b", "{outside}"), Dir("a/x")],
    "a fifo through a symlink": [Symlink("out", "{outside}"), Fifo("out/x")],
    "a directory below a symlink": [Symlink("out", "{outside}"), File("out/new/deep/x")],
    "a marker through a symlink": [Symlink("out", "{outside}"), Whiteout("out/x")],
    "a marker through a later symlink": [Whiteout("out/x"), Symlink("out", "{outside}")],
    "through a file": [File("f"), File("f/x")],
    "a marker through a file": [File("f"), Whiteout("f/x")],
    "a root that is a file": [File("./")],
    "below a marker": [File(".wh.d/x")],
    "a marker for nothing": [File("d/.wh.")],
    "a marker for the directory itself": [File("d/.wh..")],
    "a marker for the directory above": [File("d/.wh...")],
    "a NUL in a name": [File("a" * 120 + "\0b")],
    "too long": [File("/".join(["d" * 200] * 25))],
    "a component too long": [File("n" * 256)],
    "a symlink to nothing": [Symlink("s", "")],
    "a NUL in a symlink": [Symlink("s", "t" * 120 + "\0t")],
    "an attribute without a name": [File("x", xattrs={"": b"v"})],
    "a redirect of overlayfs": [Dir("d", xattrs={"trusted.overlay.redirect": b"/x"})],
    "a metadata-only file of overlayfs": [File("f", xattrs={"user.overlay.metacopy": b""})],
}


@root
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_writes_nothing(tmp_path: Path, name: str) -> None:
    """The error names the entry; outside of the layer, and in the repository, nothing has changed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "target").write_bytes(b"precious")
    entries = [
        Symlink(e.path, e.target.format(outside=outside)) if isinstance(e, Symlink) else e for e in ATTACKS[name]
    ]
    repository = make_repository(tmp_path / "repository")
    image = make_image(tmp_path / "image", layer_tar(entries))
    before = state(outside)
    with pytest.raises(InvalidArgument, match=r"layer entry|hard link") as refused:
        publish(image, repository)
    assert refused.value.remedy
    assert state(outside) == before
    assert state(repository) == {"staged": ()}


@root
def test_a_hard_link_to_a_symlink_is_the_symlink(tmp_path: Path) -> None:
    """It is not followed: another name of the link itself."""
    repository = make_repository(tmp_path / "repository")
    image = make_image(tmp_path / "image", layer_tar([Symlink("s", "/etc/passwd"), Hardlink("t", "s", mode=0o777)]))
    publish(image, repository)
    (layerfs,) = repository.glob(".layers/*/*/layerfs")
    assert os.readlink(layerfs / "t") == "/etc/passwd"


@pytest.mark.parametrize(
    ("name", "plain"),
    [(b"a/b", b"a/b"), (b"./a//b/", b"a/b"), (b"./", b""), (b".", b""), (b"a/./.b", b"a/.b"), (b"...", b"...")],
)
def test_names_in_their_plain_form(name: bytes, plain: bytes) -> None:
    """Dots and doubled slashes mean nothing."""
    assert contained(name, "name") == plain


@given(st.binary(max_size=80) | st.text("./a\0", max_size=12).map(os.fsencode))
def test_what_is_contained_stays_inside(name: bytes) -> None:
    """Any bytes: refused, or a relative path that a lexical reader finds inside, too."""
    try:
        path = contained(name, "name")
    except InvalidArgument:
        return
    assert not path.startswith(b"/")
    assert b"\0" not in path
    assert len(path) <= LONGEST_PATH
    assert os.path.normpath(b"/root/" + path) == (b"/root/" + path).rstrip(b"/")


def test_a_symlink_placed_before_is_not_followed(tmp_path: Path) -> None:
    """The directory may hold links of somebody else's making: the walk refuses them at any depth."""
    (tmp_path / "inside" / "d").mkdir(parents=True)
    (tmp_path / "inside" / "d" / "link").symlink_to(tmp_path)
    with Inside(tmp_path / "inside") as inside:
        with pytest.raises(InvalidArgument, match="leads through the symlink 'd/link'"):
            inside.parent(b"d/link/x", _unwanted)
        fd = inside.parent(b"d/x", _unwanted)
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "inside" / "d"))


def _unwanted(above: int, name: bytes, path: bytes) -> None:
    raise AssertionError(f"{path!r} is there and is made")
