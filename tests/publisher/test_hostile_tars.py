"""Whatever bytes a tar is made of: a tree or one of our errors, never another exception, never a byte outside."""

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfsrepo import compare
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError
from cvmfsrepo.oci import Descriptor
from cvmfsrepo.tree import Notation, by_path
from publisher.unpacking.removal import remove_tree
from publisher.unpacking.space import FreeSpace
from publisher.unpacking.unpack import Unpacked, unpack
from tests.examples import examples
from tests.images.nasty import ALL
from tests.images.tarlayer import File, layer_tar
from tests.publisher.test_unpack import EVERY_KIND, sparse_tar

pytestmark = pytest.mark.root

BLOCK = 512
CHECKSUM = slice(148, 156)
SEEDS = (layer_tar(EVERY_KIND), sparse_tar(), *(stack.tars()[-1] for stack in ALL.values()))
FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (329, 8), (337, 8), (345, 155))


def unpack_bytes(tar: bytes, directory: Path, notation: Notation) -> Unpacked:
    """An uncompressed blob whose digests are right, so that only the tar itself is judged."""
    directory.mkdir()
    digest = Digest(hashlib.sha256(tar).hexdigest())
    descriptor = Descriptor(str(digest), len(tar))
    return unpack(io.BytesIO(tar), descriptor, digest, directory, notation, FreeSpace(directory, 0))  # type: ignore[arg-type]


@st.composite
def damaged_tars(draw: st.DrawFn) -> bytes:
    """A tar with some bytes, header fields or whole blocks changed, its checksums made right again."""
    tar = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        block = draw(st.integers(0, max(0, len(tar) // BLOCK - 1))) * BLOCK
        match draw(st.sampled_from(["field", "byte", "cut", "repeat"])):
            case "field":
                offset, length = draw(st.sampled_from(FIELDS))
                text = draw(st.text("01234567\x80\0 ./LKxgS-", min_size=1, max_size=length)).encode("latin-1")
                tar[block + offset : block + offset + length] = text.ljust(length, b"\0")
            case "byte":
                place = block + draw(st.integers(0, BLOCK - 1))
                tar[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del tar[block : block + draw(st.sampled_from([1, 100, BLOCK, 3 * BLOCK]))]
            case _:
                tar[block:block] = tar[block : block + BLOCK]
    return with_checksums(tar)


def with_checksums(tar: bytearray) -> bytes:
    for start in range(0, len(tar) - BLOCK + 1, BLOCK):
        if tar[start + 257 : start + 262] == b"ustar":
            header = tar[start : start + BLOCK]
            header[CHECKSUM] = b" " * 8
            header[CHECKSUM] = b"%06o\0 " % sum(header)
            tar[start : start + BLOCK] = header
    return bytes(tar)


@settings(max_examples=examples(150))
@given(tar=damaged_tars(), notation=st.sampled_from(Notation))
def test_a_damaged_tar_is_a_tree_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, tar: bytes, notation: Notation
) -> None:
    """And where it is a tree, the entries say what is on the disk."""
    work = tmp_path_factory.mktemp("tar")
    try:
        unpacked = unpack_bytes(tar, work / "layerfs", notation)
    except ContractError:
        pass
    else:
        found = compare.scan(work / "layerfs")
        markers = found.keys() - {entry.path for entry in unpacked.entries}
        assert all(b".wh." in path or not found[path].size for path in markers)
        entries = by_path(unpacked.entries)
        assert list(compare.differences(entries, {path: found[path] for path in entries if path in found})) == []
    assert os.listdir(work) == ["layerfs"]
    remove_tree(work)


@pytest.mark.slow
def test_directories_deeper_than_the_stack(tmp_path: Path) -> None:
    """1,800 levels: unpacked, replaced by a file, and removed."""
    deep = "/".join(["d"] * 1800)
    replaced = layer_tar([File(f"{deep}/x"), File("d", b"now a file")])
    unpacked = unpack_bytes(replaced, tmp_path / "one", Notation.OVERLAY)
    assert {entry.path for entry in unpacked.entries} == {b"", b"d"}
    unpack_bytes(layer_tar([File(f"{deep}/x")]), tmp_path / "two", Notation.OVERLAY)
    assert len(remove_tree(tmp_path / "two")) == 1801


@pytest.mark.parametrize("kind", [b"x", b"L"], ids=["pax", "GNU long name"])
def test_a_header_that_would_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    """A header's size is limited, as containerd limits it, before it is read."""
    tar = bytearray(layer_tar([File("x")]))
    tar[124:136], tar[156:157] = b"%011o\0" % (4 << 30), kind
    with pytest.raises(ContractError, match="a header of 4294967296 bytes"):
        unpack_bytes(with_checksums(tar), tmp_path / "layerfs", Notation.OVERLAY)
