"""Root file systems of the nasty images: podman with a store against the same podman's own pull, and the rules.

Where podman's pull departs from the image specification, the store follows the pull if it can: a pull's root file
system is what is promised. `DEPARTURES` names what is left.
"""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from cvmfsrepo.compare import scan
from tests.engines.podman import Podman, Service, running_podman
from tests.engines.process import EngineError
from tests.fidelity.publishing import Form
from tests.images.nasty import ALL
from tests.podmanstore.real.conftest import need_users
from tests.podmanstore.real.corpus import (
    LAYOUT,
    Corpus,
    Tree,
    as_exported,
    corpus,
    different,
    exported,
    mounted,
    reference,
)

DEPARTURES: Mapping[str, str] = {
    "root": "/ is 0755, after podman's pull 0555; nobody takes the tar's entry for it",
    "implied": "a directory that the last layer with anything in it does not list is 0755 0:0 without attributes, as "
    "from podman's pull and not from containerd's; its time is not that of the pull",
    "setgid": "such a directory in a setgid one has the group of that; after podman's pull the bit and group 0",
    "hard-links": "CVMFS shows each name of a file as a file of its own",
    "same_layer_deletes_and_makes_a_directory": "podman's pull brings back what was deleted; a store does not",
    "same_layer_makes_and_deletes_a_directory": "podman's pull fails; a store shows what the specification says",
    "members_listed_twice": "podman's pull fails; a store shows the last one",
    "own_catalog_files": "an ingest without record: the image's own file named .cvmfscatalog is hidden as CVMFS's",
    "opaque_at_the_root_of_the_layer": "through fuse-overlayfs the mark counts, after a pull too",
    "same_layer_deletes_and_makes_a_file": "through fuse-overlayfs, raw: both are gone, and so are they after a pull",
}
"""Every difference between a pull and a store, or between podman and the image specification."""

FAILING = frozenset({"same_layer_makes_and_deletes_a_directory", "members_listed_twice"})
OF_SPECIFICATION = FAILING | {"same_layer_deletes_and_makes_a_directory"}
SETGID = frozenset({"unlisted_directories_in_a_setgid_one", "setgid_directories_listed_after_their_contents"})
AT_THE_ROOT = frozenset({"opaque_at_the_root_of_the_layer"})
BESIDE = frozenset({"same_layer_deletes_and_makes_a_file", *OF_SPECIFICATION} - {"members_listed_twice"})
DEEP = frozenset({"hundred_layers"})
"""Served by podman 5; `test_limits` has it for podman 4."""
IMPLIED = ("mode", "uid", "gid", "xattrs", "mtime")
LOST = ("uid", "gid", "xattrs", "mtime", "mode")
"""What an ingest loses of an owner or of everything (`mode`: the setuid bits)."""
CLOSED = frozenset(
    {
        "deleted_then_made_again_above", "opaque_directory", "opaque_over_opaque",
        "same_layer_deletes_and_makes_a_file", "unlisted_directory_over_a_symlink",
        "children_before_their_directories", "own_catalog_files", "listed_root",
        "hundred_layers",
    }
)  # fmt: skip
"""Images with files or directories that only their owner may read: a user's podman cannot read them either."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """podman's own pulls, in a podman without any store; `trees` lacks what cannot be pulled."""

    trees: Mapping[str, Tree]


@pytest.fixture(scope="module")
def nasty() -> Iterator[Corpus]:
    with corpus() as made:
        yield made


def names(version: str) -> list[str]:
    return [name for name in ALL if version == "5.8" or name not in DEEP]


@pytest.fixture(scope="module")
def pulled(version: str, nasty: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    directory = tmp_path_factory.mktemp("pulled")
    with running_podman(version, directory, binds=[nasty.layout]) as podman, podman.service() as service:
        yield Pulled(dict(_pull(nasty, podman, service)))


def _pull(nasty: Corpus, podman: Podman, service: Service) -> Iterator[tuple[str, Tree]]:
    """One command pulls all that can be pulled."""
    for name in FAILING:
        assert podman.run("pull", "-q", f"oci:{LAYOUT}:{name}", check=False).returncode != 0, name
    able = [name for name in names(podman.version) if name not in FAILING]
    ids = podman.run("pull", "-q", *(f"oci:{LAYOUT}:{name}" for name in able)).stdout.split()
    for name, identity in zip(able, ids, strict=True):
        root = mounted(podman, service, identity)
        yield name, Tree(root, scan(root), nasty.oracles[name].undated)


SERVED = [(Form.OVERLAY, "both"), (Form.OCI, "kernel"), (Form.OCI, "both"), (Form.DUCC, "kernel")]
LEFT_OUT = {
    (Form.OVERLAY, "both"): {"own_catalog_files_deleted"},
    (Form.OCI, "kernel"): set[str](),
    (Form.OCI, "fuse-overlayfs"): set[str](),
    (Form.DUCC, "kernel"): set[str](),
}
"""By form and mount kind; with raw layers and `both` it is everything with an opaque mark, and some more."""


@pytest.mark.parametrize(("form", "kind"), SERVED, ids=lambda value: getattr(value, "value", value))
def test_a_store_shows_what_a_pull_makes(
    version: str, form: Form, kind: str, nasty: Corpus, pulled: Pulled, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the kernel, in every form of the repository, but for `DEPARTURES`: there it shows what the specification
    says."""
    left_out = nasty.left_out[form, kind]
    assert left_out == LEFT_OUT.get((form, kind), left_out)
    ignored = ("hard-links", *(LOST if form is Form.DUCC else ()))
    binds, found = nasty.binds(form), dict[str, list[str]]()
    with (
        running_podman(version, tmp_path_factory.mktemp("p"), stores=[nasty.store(form, kind)], binds=binds) as podman,
        podman.service() as service,
    ):
        lost = {"own_catalog_files"} if form is Form.DUCC else set()
        for name in set(names(version)) - left_out - lost:
            root = mounted(podman, service, reference(name))
            expected = nasty.oracles[name] if name in OF_SPECIFICATION else pulled.trees[name]
            implied = (
                IMPLIED if name in OF_SPECIFICATION else ("mtime", "gid", "mode") if name in SETGID else ("mtime",)
            )
            found[name] = different(expected, root, ignored, implied)
            if expected.root != nasty.oracles[name].root:
                found[name] = [line for line in found[name] if line != _ROOT]
            rule = different(nasty.oracles[name], root, ignored, IMPLIED)
            assert rule == [], f"{name}: unlike the specification in more than implied directories"
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_each_departure_has_its_reason() -> None:
    """What the comparisons treat apart is named, but for deep images, which are only too many directories."""
    assert DEPARTURES.keys() >= OF_SPECIFICATION | AT_THE_ROOT | BESIDE
    assert DEPARTURES.keys() - ALL.keys() == {"root", "implied", "setgid", "hard-links"}


FUSE_SERVED = [(Form.OVERLAY, "both"), (Form.OCI, "fuse-overlayfs"), (Form.OCI, "both")]


@pytest.mark.parametrize(("form", "kind"), FUSE_SERVED, ids=lambda value: getattr(value, "value", value))
def test_a_store_shows_the_same_through_fuse_overlayfs(
    version: str, form: Form, kind: str, nasty: Corpus, pulled: Pulled, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the kernel shows, but for the departures that are fuse-overlayfs's: there it shows what podman's own pull
    shows through fuse-overlayfs."""
    with (
        running_podman(
            version, tmp_path_factory.mktemp("p"), stores=[nasty.store(form, kind)], binds=nasty.binds(form),
            mount_program="fuse-overlayfs",
        ) as podman,
        podman.service() as service,
    ):  # fmt: skip
        left_out, found = nasty.left_out[form, kind], dict[str, list[str]]()
        odd = AT_THE_ROOT | (BESIDE if kind == "fuse-overlayfs" else set())
        for name in set(names(version)) - left_out - odd - SETGID - DEEP:
            expected = nasty.oracles[name] if name in OF_SPECIFICATION else pulled.trees[name]
            implied = IMPLIED if name in OF_SPECIFICATION else ("mtime",)
            root = mounted(podman, service, reference(name))
            found[name] = [line for line in different(expected, root, ("hard-links",), implied) if line != _ROOT]
        assert {name: lines for name, lines in found.items() if lines} == {}
        shown = {name: mounted(podman, service, reference(name)) for name in odd - left_out - FAILING}
        with (
            running_podman(
                version, tmp_path_factory.mktemp("r"), binds=[nasty.layout], mount_program="fuse-overlayfs"
            ) as puller,
            puller.service() as own,
        ):
            for name, root in shown.items():
                image = puller.run("pull", "-q", f"oci:{LAYOUT}:{name}").stdout.strip()
                pull = mounted(puller, own, image)
                tree = Tree(pull, scan(pull), nasty.oracles[name].undated)
                assert [line for line in different(tree, root, ("hard-links",), ("mtime",)) if line != _ROOT] == [], (
                    name
                )


def test_a_user_sees_what_permissions_let_them(
    version: str, nasty: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A user's podman through fuse-overlayfs with all files given to the user: the whole tree, or one without what only
    its owner may read in the repository (`CLOSED`)."""
    need_users()
    store = nasty.store(Form.OCI, "fuse-overlayfs")
    with (
        running_podman(
            version, tmp_path_factory.mktemp("p"), stores=[store], binds=nasty.binds(Form.OCI), rootless=True,
            mount_program="fuse-overlayfs", mountopt="nodev,squash_to_root",
        ) as podman,
        podman.service() as service,
    ):  # fmt: skip
        differing = {name for name in set(names(version)) - AT_THE_ROOT - BESIDE if not _is_seen(nasty, service, name)}
    assert differing == CLOSED & set(names(version)) - BESIDE


def _is_seen(nasty: Corpus, service: Service, name: str) -> bool:
    """Whether a user's export has what the oracle has, but for the modes of implied directories and the root."""
    try:
        found = exported(service, reference(name))
    except (EngineError, tarfile.TarError):  # a file in the middle could not be read
        return False
    expected = as_exported(nasty.oracles[name])
    undated = set(map(os.fsdecode, nasty.oracles[name].undated))
    return all(
        expected.get(path) == found.get(path) or (path in undated and path in found)
        for path in {*expected, *found} - {"", "."}
    )


_ROOT = "/: mode: expected '0o555', found '0o755'"
