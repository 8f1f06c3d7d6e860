"""Containers in user namespaces: their files would need other owners, which a repository's layers cannot have."""

import pytest

from cvmfsrepo.errors import AlreadyExists, FailedPrecondition
from snapshotter import labels as label
from snapshotter.snapshotter import Snapshotter
from tests.snapshotter.layers import NAME, HandMade, pull

MAPPED = {label.MAPPINGS[0]: "0:100000:65536", label.MAPPINGS[1]: "0:100000:65536"}


@pytest.fixture
def remote(repository: HandMade, verbs: Snapshotter) -> str:
    """A snapshot of a repository's layer."""
    with pytest.raises(AlreadyExists):
        verbs.prepare("extract", "", pull("t", repository.add("base")))
    (info,) = verbs.walk()
    return info.name


def committed(verbs: Snapshotter, name: str, parent: str = "") -> str:
    verbs.prepare(f"extract {name}", parent, {})
    verbs.commit(name, f"extract {name}", {})
    return name


@pytest.mark.parametrize("verb", ["prepare", "view"])
def test_on_a_repositorys_layer_it_is_refused(verbs: Snapshotter, remote: str, verb: str) -> None:
    """At once, naming the repository and what to do; nothing is made. Also where local layers lie on top."""
    make = verbs.prepare if verb == "prepare" else verbs.view
    for parent in (remote, committed(verbs, "top", remote)):
        with pytest.raises(FailedPrecondition, match=rf"stands on layers of repository {NAME}.*hostUsers: true"):
            make("container", parent, MAPPED)
    assert "container" not in [info.name for info in verbs.walk()]
    make("container", remote, {})


def test_on_downloaded_layers_it_is_the_callers_business(verbs: Snapshotter) -> None:
    """containerd copies what it gives other owners: these files are here."""
    verbs.prepare("container", committed(verbs, "local"), MAPPED)
    verbs.view("view", "local", MAPPED)
