"""DUCC's own store beside ours, on the same repository: what it shows wrong, and that `check` says so."""

import base64
import json
import os
from pathlib import Path
from typing import Any

from cvmfsrepo.digest import Digest
from cvmfsrepo.layout import Layout
from podmanstore.check import Kind, check_store
from tests.engines.podman import Bind, running_podman
from tests.images.ocilayout import CREATED, Image
from tests.podmanstore.real.world import World


def write_ducc_store(store: Path, repository: Path, images: dict[str, Image]) -> None:
    """As DUCC writes one, with what keeps podman from reading it at all put right: ids of layers are diff ids, a layer
    is written once, links are relative, locks are empty."""
    for number, (name, image) in enumerate(images.items()):
        below: list[str] = []
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            _add_layer(store, Layout(repository).layerfs(Digest.parse(layer)), diff_id[7:], layer, below)
            below.insert(0, diff_id[7:])
        directory = store / "overlay-images" / image.config[7:]
        directory.mkdir(parents=True)
        (directory / "manifest").write_bytes(image.blob(image.manifest).read_bytes())
        (directory / _file_name(image.config)).write_bytes(image.blob(image.config).read_bytes())
        record = {"id": image.config[7:], "names": [name], "layer": below[0], "created": CREATED}
        _append(store / "overlay-images/images.json", record, number == 0)
    for kind in ("images", "layers"):
        (store / f"overlay-{kind}/{kind}.lock").touch()


def _add_layer(store: Path, target: Path, identity: str, blob: str, below: list[str]) -> None:
    entry, link = store / "overlay" / identity, identity[:26].upper()
    if entry.exists():
        return
    entry.mkdir(parents=True)
    (store / "overlay/l").mkdir(exist_ok=True)
    (store / "overlay-layers").mkdir(exist_ok=True)
    (entry / "diff").symlink_to(os.path.relpath(target, entry))
    (entry / "link").write_text(link)
    (store / "overlay/l" / link).symlink_to(f"../{identity}/diff")
    if below:
        (entry / "lower").write_text(":".join(f"l/{other[:26].upper()}" for other in below))
    record = {
        "id": identity, "created": CREATED, "compressed-diff-digest": blob, "compressed-size": 9,
        "diff-digest": f"sha256:{identity}", "diff-size": 9, **({"parent": below[0]} if below else {}),
    }  # fmt: skip
    _append(store / "overlay-layers/layers.json", record, False)


def _append(index: Path, record: dict[str, Any], first: bool) -> None:
    records = json.loads(index.read_text()) if index.exists() and not first else []
    index.write_text(json.dumps([*records, record]))


def _file_name(key: str) -> str:
    return "=" + base64.b64encode(key.encode()).decode()


def test_it_shows_wrong_trees_and_makes_pulls_fail(version: str, world: World, tmp_path: Path) -> None:
    """A layer under two parents has one parent there, deleted files are back, CVMFS's own files are seen, and a user's
    image on its layers cannot be pulled; with our store none of it (see `test_commands`)."""
    store = world.directory / f"ducc-{version}"
    names = ["base", "sibling"]
    write_ducc_store(store, world.mounts["ducc"], {world.reference(name): world.images[name] for name in names})
    kinds = {defect.kind for defect in check_store(store)}
    assert kinds >= {
        Kind.DIFF_ID_AS_LAYER_ID, Kind.DIFF_RELATIVE, Kind.LOCK_SHORT, Kind.BIG_DATA_UNLISTED, Kind.CATALOG_VISIBLE,
        Kind.CHAIN_DIFFERS, Kind.MANIFEST_DIGEST_MISSING,
    }  # fmt: skip
    binds = [Bind(world.mounts["ducc"], read_only=True)]
    with running_podman(version, tmp_path / "podman", stores=[store], binds=binds) as podman:
        run = ("run", "--rm", "--pull=never", "--network=none")
        shown = {name: podman.run(*run, world.reference(name), "ls", "-A", "/data").stdout.split() for name in names}
        assert shown["base"] == [".wh.gone", "gone", "one", "two"]
        assert shown["sibling"] == shown["base"]
        assert ".cvmfscatalog" in podman.run(*run, world.reference("base"), "ls", "-A", "/").stdout.split()
        pulled = podman.run("pull", "-q", world.reference("child"), check=False)
        assert "must be absolute" in pulled.stderr


def test_a_pull_on_our_store_copies_nothing(version: str, world: World, tmp_path: Path) -> None:
    """The same pull has one layer of its own."""
    binds = [Bind(world.mounts["ducc"], read_only=True)]
    with running_podman(version, tmp_path / "podman", stores=[world.stores["ducc-kernel"]], binds=binds) as podman:
        podman.run("pull", "-q", world.reference("child"))
        copied = json.loads((podman.storage / "overlay-layers/layers.json").read_text())
        assert [each["diff-digest"] for each in copied] == [world.images["child"].diff_ids[-1]]
