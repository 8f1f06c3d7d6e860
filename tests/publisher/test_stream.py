"""A blob is read once, decompressed by its first bytes, and believed only when both digests are right."""

import gzip
import io
from pathlib import Path

import pytest
import zstandard

from cvmfsrepo import compare
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import DataLoss
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Descriptor
from publisher.unpacking.stream import TarBytes, VerifiedBlob
from tests.images.tarlayer import Dir, File, layer_tar
from tests.publisher.crafting import Blob, craft_image, digest
from tests.publisher.publishing import make_repository, publish, state

pytestmark = pytest.mark.root

TAR = layer_tar([Dir("d"), File("d/x", b"content " * 20_000), File("y", bytes(range(256)) * 300)])
HALF = len(TAR) // 2
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


STREAMS = {
    "gzip": gzip.compress(TAR),
    "two gzip members": gzip.compress(TAR[:HALF]) + gzip.compress(TAR[HALF:]),
    "gzip and an empty member, as eStargz ends": gzip.compress(TAR) + gzip.compress(b""),
    "zstd": zstd(TAR),
    "zstd of unknown size": zstandard.ZstdCompressor(write_content_size=False).compress(TAR),
    "two zstd frames": zstd(TAR[:HALF]) + zstd(TAR[HALF:]),
    "zstd with skippable frames, as zstd:chunked": SKIPPABLE.join([b"", zstd(TAR[:HALF]), zstd(TAR[HALF:]), b""]),
    "none": TAR,
}
LARGE_PADDING = TAR + bytes(3 << 20)
DAMAGES = {
    "truncated": (Blob(gzip.compress(TAR)[:-100], TAR, promised=gzip.compress(TAR)), "bytes:"),
    "too long": (Blob(gzip.compress(TAR) + b"more", TAR, promised=gzip.compress(TAR)), "bytes:"),
    "wrong digest": (Blob(gzip.compress(TAR, 1), TAR, promised=b"?" * len(gzip.compress(TAR, 1))), "another digest"),
    "wrong digest of a corrupt gzip": (
        Blob(b"\x1f\x8b" + bytes(500), TAR, promised=b"?" * 502), "another digest"
    ),
    "wrong diff id": (Blob(gzip.compress(TAR), TAR + bytes(512)), "unpacks to the diff id"),
    "corrupt gzip": (Blob(gzip.compress(TAR)[:300] + b"\xff" * 400, TAR), "does not decompress"),
    "gzip cut short": (Blob(gzip.compress(TAR)[:-30], TAR), "does not decompress"),
    "gzip with a wrong checksum": (Blob(gzip.compress(TAR)[:-8] + bytes(8), TAR), "does not decompress"),
    "bytes behind the gzip": (Blob(gzip.compress(TAR) + b"garbage", TAR), "does not decompress"),
    "corrupt zstd": (Blob(zstd(TAR)[:60] + b"\xff" * 60, TAR), "is a damaged tar|does not decompress|unpacks to"),
    "zstd cut short": (Blob(zstd(TAR)[:-40], TAR), "is a damaged tar|does not decompress|unpacks to"),
    "bytes behind the zstd": (Blob(zstd(TAR) + b"garbage", TAR), "does not decompress"),
    "not a tar": (Blob(b"no tar at all, but long enough to be a header" * 20, b""), "damaged tar"),
    "a tar that ends inside of a file": (Blob(gzip.compress(TAR[:5000]), TAR[:5000]), "damaged tar"),
    "a tar that ends inside of a block of a file": (Blob(TAR[:1500], TAR[:1500]), "damaged tar"),
    "a tar that ends inside of a header": (Blob(TAR[:700], TAR[:700]), "damaged tar"),
    "a damaged header in the middle": (
        Blob(TAR.replace(b"y\0", b"z\0", 1), TAR.replace(b"y\0", b"z\0", 1)), "damaged tar"
    ),
    "bytes behind the tar's end": (Blob(gzip.compress(TAR + b"x" * 512), TAR + b"x" * 512), "behind the end"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_every_compression_gives_the_same_tree(tmp_path: Path, name: str) -> None:
    """Told by the bytes: the media type says gzip in all of these."""
    repository = make_repository(tmp_path / "repository")
    image = craft_image(tmp_path / "image", Blob(STREAMS[name], TAR))
    report = publish(image, repository)
    layerfs = Layout(repository).layerfs(report.published[0])
    names = {path: entry.size for path, entry in compare.scan(layerfs).items()}
    assert names == {b"": 0, b"d": 0, b"d/x": 160_000, b"y": 76_800}
    assert (layerfs / "y").read_bytes() == bytes(range(256)) * 300


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_blob_leaves_the_repository_as_it_was(tmp_path: Path, name: str) -> None:
    """Clear words for each damage, and nothing visible, neither of it nor of the sound layer below it."""
    blob, words = DAMAGES[name]
    sound = layer_tar([File("sound")])
    repository = make_repository(tmp_path / "repository")
    before = state(repository)
    with pytest.raises(DataLoss, match=words):
        publish(craft_image(tmp_path / "image", Blob(sound, sound), blob), repository)
    assert state(repository) == {**before, "staged": ()}


@pytest.mark.parametrize("tar", [b"", bytes(512), bytes(1024), LARGE_PADDING], ids=["none", "one", "two", "padded"])
def test_ends_that_are_no_damage(tmp_path: Path, tar: bytes) -> None:
    """No bytes at all, one or two empty blocks, megabytes of padding: an end, as a pull takes it."""
    repository = make_repository(tmp_path / "repository")
    report = publish(craft_image(tmp_path / "image", Blob(gzip.compress(tar), tar)), repository)
    assert Layout(repository).layerfs(report.published[0]).is_dir()


class Trickle(io.RawIOBase):
    """A source that gives a few bytes at a time, as networks do."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._content.readinto(buffer[:7])


@pytest.mark.parametrize("name", ["gzip", "zstd", "none"])
def test_a_slow_source_gives_the_same_bytes(name: str) -> None:
    """Short reads are not ends, also within the first bytes that tell the compression."""
    descriptor = Descriptor(digest(STREAMS[name]), len(STREAMS[name]))
    seen: list[int] = []
    tar = TarBytes(VerifiedBlob(Trickle(STREAMS[name]), descriptor, seen.append), descriptor.digest)
    content = b""
    while piece := tar.read(1000):
        content += piece
    assert (content[: len(TAR)], tar.digest, tar.size) == (TAR, Digest.of(TAR), len(TAR))
    assert sum(seen) == descriptor.size
