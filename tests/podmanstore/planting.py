"""What can be planted in a good store of three layers (`handmade.simple`), and the defects that are found then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from podmanstore.check import Kind
from tests.podmanstore.handmade import Handmade, file_name, link_of, sha

CATALOG = ".cvmfscatalog"
Plant = Callable[[Handmade], object]


def record(kind: str, change: Callable[[dict[str, Any]], object], at: int = -1) -> Plant:
    """Plants by changing one record of an index."""
    return lambda made: made.edit(kind, lambda records: change(records[at]))


def write(file: str, content: bytes) -> Plant:
    """Plants by writing a file of the store; TOP stands for the top layer's id, IMAGE for the image's."""
    return lambda made: _path(made, file).write_bytes(content)


def gone(file: str) -> Plant:
    return lambda made: _path(made, file).unlink()


def linked(file: str, target: str) -> Plant:
    """Plants a link, whose target may begin with TARGET: the place of the top layer."""

    def plant(made: Handmade) -> None:
        path = _path(made, file)
        path.unlink(missing_ok=True)
        path.symlink_to(target.replace("TARGET", str(made.layer("2").target)).replace("BASE", next(iter(made.layers))))

    return plant


def _path(made: Handmade, file: str) -> Path:
    top, image = list(made.layers)[2], made.images[0]["id"]
    names = {"TOP": top, "MIDDLE": list(made.layers)[1], "LINK": link_of(top), "IMAGE": image}
    names["CONFIG"] = file_name(f"sha256:{image}")
    for name, value in names.items():
        file = file.replace(name, value)
    return made.store / file


def duplicate(kind: str) -> Plant:
    return lambda made: made.edit(kind, lambda records: records.append(dict(records[-1])))


def same_name(made: Handmade) -> None:
    """Another image with the first one's name."""
    made.image("docker.io/library/simple:1", [made.layer("0")])
    made.images[-1]["names"] *= 2
    made.write()


def diff_id_named(made: Handmade) -> None:
    """The top layer is called by its diff id, everywhere."""
    old, new = list(made.layers)[2], made.layer("2").diff_id
    made.entry(new, made.stacks[old], made.layer("2").target)
    made.edit("layers", lambda records: records[2].update(id=new))
    made.edit("images", lambda records: records[0].update(layer=new))


def lost_directory(made: Handmade) -> None:
    directory = made.store / "overlay" / list(made.layers)[2]
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def same_link(made: Handmade) -> None:
    _path(made, "overlay/MIDDLE/link").write_text(link_of(list(made.layers)[2]))


def raw_markers(*names: str) -> Plant:
    """Markers in the root of the top layer."""
    return lambda made: made.layer("2", names)


def without_lower(made: Handmade) -> None:
    for name in ("lower", "lower-layers"):
        _path(made, f"overlay/TOP/{name}").unlink()


def incomplete_lower(made: Handmade) -> None:
    """The base is left out, though nothing that is named shows what is in it."""
    middle = list(made.layers)[1]
    _path(made, "overlay/TOP/lower").write_text(f"l/{link_of(middle)}")
    _path(made, "overlay/TOP/lower-layers").write_text(middle)


def unlisted_directory(made: Handmade) -> None:
    made.entry(sha("x"), [], made.layer("0").target)


def without_tables(image: dict[str, Any]) -> None:
    for what in ("names", "sizes", "digests"):
        del image[f"big-data-{what}"]


def without_digests(image: dict[str, Any]) -> None:
    del image["digest"], image["big-data-digests"]


def lower_layer_as_top(made: Handmade) -> None:
    made.edit("images", lambda records: records[0].update(layer=next(iter(made.layers))))


def ring(made: Handmade) -> None:
    made.edit("layers", lambda records: records[0].update(parent=records[2]["id"]))


def closed(file: str, mode: int) -> Plant:
    return lambda made: _path(made, file).chmod(mode)


def unreadable_config(made: Handmade) -> None:
    """An image whose config is what its id promises, and names no layers."""
    made.images.clear()
    made.image("docker.io/library/simple:1", [made.layer(n) for n in "012"], config=b'{"rootfs": {"diff_ids": [1]}}')
    made.write()


LAYERS, IMAGES = "overlay-layers/layers.json", "overlay-images/images.json"
DIGEST = f"sha256:{sha('other')}"
LOST = {Kind.LAYER_DIRECTORY_MISSING, Kind.LINK_STRAY}
NO_LAYERS = {Kind.TOP_LAYER_MISSING, Kind.LAYER_DIRECTORY_UNLISTED}

PLANTED: list[tuple[str, Plant, set[Kind]]] = [
    ("no lock", gone("overlay-images/images.lock"), {Kind.LOCK_MISSING}),
    ("empty lock", write("overlay-layers/layers.lock", b""), {Kind.LOCK_SHORT}),
    ("short lock", write("overlay-layers/layers.lock", b"x" * 63), {Kind.LOCK_SHORT}),
    ("closed file", closed(IMAGES, 0o640), {Kind.UNREADABLE}),
    ("closed link file", closed("overlay/TOP/link", 0o600), {Kind.UNREADABLE}),
    ("closed directory", closed("overlay/TOP", 0o700), {Kind.UNREADABLE}),
    ("closed image", closed("overlay-images/IMAGE/CONFIG", 0o600), {Kind.UNREADABLE}),
    ("no index", gone(IMAGES), {Kind.INDEX_MISSING}),
    ("empty index", write(IMAGES, b""), {Kind.INDEX_MISSING}),
    ("broken images", write(IMAGES, b'[{"id":'), {Kind.JSON_BROKEN}),
    ("deep images", write(IMAGES, b"[" * 100_000), {Kind.JSON_BROKEN}),
    ("broken layers", write(LAYERS, b"[{}]]"), {Kind.JSON_BROKEN, *NO_LAYERS}),
    ("no array", write(IMAGES, b"{}"), {Kind.JSON_TYPE}),
    ("number for a name", record("images", lambda image: image.update(names=[1])), {Kind.JSON_TYPE}),
    ("text for a size", record("images", lambda i: i.update({"big-data-sizes": {"manifest": "9"}})), {Kind.JSON_TYPE}),
    ("no time", record("images", lambda image: image.update(created="yesterday")), {Kind.JSON_TYPE}),
    (
        "a fraction",
        record("layers", lambda r: r.update({"diff-size": 1.5}), 0),
        {Kind.JSON_TYPE, Kind.PARENT_MISSING, Kind.CHAIN_DIFFERS},
    ),
    ("layer twice", duplicate("layers"), {Kind.LAYER_TWICE}),
    ("image twice", duplicate("images"), {Kind.IMAGE_TWICE}),
    ("name twice", same_name, {Kind.NAME_TWICE}),
    ("bad image id", record("images", lambda image: image.update(id="../../x")), {Kind.ID_MALFORMED}),
    ("bad layer id", record("layers", lambda layer: layer.update(id="../x")), {Kind.ID_MALFORMED, *NO_LAYERS}),
    ("diff id as id", diff_id_named, {Kind.DIFF_ID_AS_LAYER_ID, Kind.LAYER_DIRECTORY_UNLISTED}),
    (
        "id by no rule",
        record("layers", lambda r: r.update({"diff-digest": DIGEST})),
        {Kind.LAYER_ID, Kind.CHAIN_DIFFERS},
    ),
    (
        "no parent",
        record("layers", lambda r: r.update(parent=sha("none"))),
        {Kind.PARENT_MISSING, Kind.LAYER_ID, Kind.CHAIN_DIFFERS},
    ),
    (
        "bad parent",
        record("layers", lambda r: r.update(parent="/")),
        {Kind.ID_MALFORMED, Kind.LAYER_ID, Kind.CHAIN_DIFFERS},
    ),
    (
        "no diff digest",
        record("layers", lambda r: r.pop("diff-digest")),
        {Kind.DIFF_DIGEST_MISSING, Kind.CHAIN_DIFFERS},
    ),
    (
        "bad diff digest",
        record("layers", lambda r: r.update({"diff-digest": "md5:1"})),
        {Kind.DIGEST_MALFORMED, Kind.CHAIN_DIFFERS},
    ),
    ("no blob digest", record("layers", lambda r: r.pop("compressed-diff-digest")), {Kind.COMPRESSED_DIGEST_MISSING}),
    ("no tar size", record("layers", lambda r: r.pop("diff-size")), {Kind.SIZE_MISSING}),
    ("no blob size", record("layers", lambda r: r.pop("compressed-size")), {Kind.SIZE_MISSING}),
    ("no compression", record("layers", lambda r: r.pop("compression")), {Kind.COMPRESSION_MISSING}),
    ("tar-split", linked("overlay-layers/TOP.tar-split.gz", "/nowhere/x"), {Kind.TAR_SPLIT_DANGLING}),
    ("no top layer", record("images", lambda image: image.update(layer=sha("none"))), {Kind.TOP_LAYER_MISSING}),
    ("nothing as top", record("images", lambda image: image.pop("layer")), {Kind.CHAIN_DIFFERS}),
    (
        "lower layer as top",
        lower_layer_as_top,
        {Kind.CHAIN_DIFFERS},
    ),
    ("index of null", write(IMAGES, b"null"), set()),
    (
        "parents in a ring",
        ring,
        {Kind.PARENT_CYCLE, Kind.DIFF_ID_AS_LAYER_ID, Kind.LOWER_MISSING},
    ),
    ("config of no type", unreadable_config, {Kind.CONFIG_BROKEN}),
    ("short name", record("images", lambda image: image.update(names=["simple:1"])), {Kind.NAME_NOT_NORMALISED}),
    (
        "no digest",
        record("images", without_digests),
        {Kind.MANIFEST_DIGEST_MISSING, Kind.BIG_DATA_INCOMPLETE},
    ),
    (
        "bad digest",
        record("images", lambda i: i.update(digest="sha256:1")),
        {Kind.DIGEST_MALFORMED, Kind.MANIFEST_DIGEST},
    ),
    ("other digest", record("images", lambda image: image.update(digest=DIGEST)), {Kind.MANIFEST_DIGEST}),
    ("no config", gone("overlay-images/IMAGE/CONFIG"), {Kind.BIG_DATA_MISSING}),
    ("no manifest", gone("overlay-images/IMAGE/manifest"), {Kind.BIG_DATA_MISSING}),
    ("dangling manifest", linked("overlay-images/IMAGE/manifest", "/nowhere/x"), {Kind.BIG_DATA_MISSING}),
    ("other config", write("overlay-images/IMAGE/CONFIG", b"{}"), {Kind.IMAGE_ID, Kind.BIG_DATA_DIFFERS}),
    (
        "other manifest",
        write("overlay-images/IMAGE/manifest", b"{}"),
        {Kind.IMAGE_ID, Kind.MANIFEST_BROKEN, Kind.BIG_DATA_DIFFERS},
    ),
    (
        "no JSON manifest",
        write("overlay-images/IMAGE/manifest", b"\xff"),
        {Kind.MANIFEST_BROKEN, Kind.BIG_DATA_DIFFERS},
    ),
    (
        "no list",
        record("images", without_tables),
        {Kind.BIG_DATA_UNLISTED},
    ),
    (
        "an item without size",
        record("images", lambda i: i["big-data-sizes"].pop("manifest")),
        {Kind.BIG_DATA_INCOMPLETE},
    ),
    ("a size without item", record("images", lambda i: i["big-data-sizes"].update(x=1)), {Kind.BIG_DATA_INCOMPLETE}),
    (
        "an item without file",
        record("images", lambda i: i["big-data-names"].append("x")),
        {Kind.BIG_DATA_INCOMPLETE, Kind.BIG_DATA_MISSING},
    ),
    ("other size", record("images", lambda i: i["big-data-sizes"].update(manifest=1)), {Kind.BIG_DATA_DIFFERS}),
    ("no layer directory", lost_directory, {*LOST}),
    (
        "unlisted directory",
        unlisted_directory,
        {Kind.LAYER_DIRECTORY_UNLISTED},
    ),
    ("no link file", gone("overlay/TOP/link"), {Kind.LINK_MISSING}),
    ("link with newline", write("overlay/TOP/link", b"ABC\n"), {Kind.LINK_MALFORMED}),
    ("link with slash", write("overlay/TOP/link", b"../x"), {Kind.LINK_MALFORMED}),
    ("link twice", same_link, {Kind.LINK_TWICE}),
    ("no short link", gone("overlay/l/LINK"), {Kind.SHORT_LINK_MISSING}),
    ("stray short link", linked("overlay/l/STRAY", f"../{sha('x')}/diff"), {Kind.LINK_STRAY}),
    ("absolute short link", linked("overlay/l/LINK", "TARGET"), {Kind.SHORT_LINK_TARGET}),
    ("short link elsewhere", linked("overlay/l/LINK", "../BASE/diff"), {Kind.SHORT_LINK_TARGET}),
    (
        "no lower",
        without_lower,
        {Kind.LOWER_MISSING},
    ),
    ("lower-layers alone", gone("overlay/TOP/lower"), {Kind.LOWER_MISSING}),
    ("half a lower", incomplete_lower, {Kind.LOWER_INCOMPLETE}),
    ("empty lower", write("overlay/TOP/lower", b""), {Kind.LOWER_EMPTY, Kind.LOWER_LAYERS_DIFFER}),
    ("absolute lower", write("overlay/TOP/lower", b"/var/x"), {Kind.LOWER_ABSOLUTE, Kind.LOWER_LAYERS_DIFFER}),
    ("dangling lower", write("overlay/TOP/lower", b"l/NONE"), {Kind.LOWER_DANGLING, Kind.LOWER_LAYERS_DIFFER}),
    ("binary lower", write("overlay/TOP/lower", b"\xff\x00"), {Kind.LOWER_MALFORMED, Kind.LOWER_LAYERS_DIFFER}),
    (
        "other lower-layers",
        write("overlay/TOP/lower-layers", sha("x").encode()),
        {Kind.LOWER_DANGLING, Kind.LOWER_LAYERS_DIFFER},
    ),
    ("bad lower-layers", write("overlay/TOP/lower-layers", b"../x"), {Kind.LOWER_MALFORMED, Kind.LOWER_LAYERS_DIFFER}),
    ("no diff", gone("overlay/TOP/diff"), {Kind.DIFF_MISSING}),
    ("relative diff", linked("overlay/TOP/diff", "../../../x"), {Kind.DIFF_RELATIVE, Kind.DIFF_DANGLING}),
    ("dangling diff", linked("overlay/TOP/diff", "/nowhere/x"), {Kind.DIFF_DANGLING}),
    ("diff to a file", linked("overlay/TOP/diff", "TARGET/file"), {Kind.DIFF_DANGLING}),
    ("diff1 beside a link", lambda made: _path(made, "overlay/TOP/diff1").mkdir(), {Kind.DIFF_NUMBERED}),
    ("same directory", linked("overlay/MIDDLE/diff", "TARGET"), {Kind.DIRECTORY_TWICE}),
    ("catalog", raw_markers(CATALOG), {Kind.CATALOG_VISIBLE}),
    ("markers", raw_markers(CATALOG, ".wh.gone"), {Kind.CATALOG_VISIBLE, Kind.MARKER_VISIBLE}),
]
