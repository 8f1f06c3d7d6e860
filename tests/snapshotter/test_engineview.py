"""What containerd says, put together: images by the labels of their content, containers by what people call them."""

import pytest

from cvmfsrepo.errors import FailedPrecondition, InvalidArgument, NotFound
from snapshotter.engineview import Container, find_container, local_parts, record_name, unpacked

REF, SNAPSHOT = "containerd.io/gc.ref.content", "containerd.io/gc.ref.snapshot"

BLOBS = {
    "index": {f"{REF}.m.0": "amd64", f"{REF}.m.1": "arm64", f"{REF}.m.2": "missing", "other": "x"},
    "amd64": {f"{REF}.config": "config", f"{REF}.l.0": "layer", f"{REF}.0": "index"},
    "arm64": {f"{REF}.config": "config-arm", f"{REF}.l.0": "layer"},
    "config": {
        f"{SNAPSHOT}.ours": "chain",
        f"{SNAPSHOT}.overlayfs": "chain",
        "containerd.io/distribution.source.x": "y",
    },
    "config-arm": {f"{SNAPSHOT}.ours": "chain-arm"},
    "layer": {},
}


def test_an_image_is_unpacked_where_its_configs_say_so() -> None:
    """Through an index and for each platform; blobs that were discarded, and ones that refer back, are no trouble."""
    assert {name: set(chains) for name, chains in unpacked("index", BLOBS).items()} == {
        "ours": {"chain", "chain-arm"}, "overlayfs": {"chain"},
    }  # fmt: skip
    assert unpacked("arm64", BLOBS) == {"ours": ("chain-arm",)}
    assert unpacked("layer", BLOBS) == {} == unpacked("nowhere", BLOBS)


def container(id: str, namespace: str = "k8s.io", snapshotter: str = "ours", **labels: str) -> Container:  # noqa: A002
    return Container(namespace, id, "image:1", snapshotter, id, {k.replace("_", "/"): v for k, v in labels.items()})


ONES = (
    container("abcdef", **{"io.kubernetes.pod.name": "web-1", "io.kubernetes.container.name": "web"}),
    container("abc", "default", nerdctl_name="box"),
    container("abx", **{"io.kubernetes.pod.name": "web-1"}),
)


@pytest.mark.parametrize(
    ("text", "id_"),
    [("abc", "abc"), ("abcd", "abcdef"), ("box", "abc"), ("web", "abcdef"), ("k8s.io/abx", "abx"), ("abx", "abx")],
)
def test_a_container_by_what_people_call_it(text: str, id_: str) -> None:
    """A whole id goes before the beginning of another one, and that before a name."""
    assert find_container(ONES, text).id == id_


@pytest.mark.parametrize("text", ["ab", "web-1"])
def test_a_name_that_means_several(text: str) -> None:
    """Is refused with all that it means."""
    with pytest.raises(InvalidArgument, match=r"means several: k8s.io/abcdef \(image:1\), .*abx"):
        find_container(ONES, text)


def test_a_name_that_means_none() -> None:
    """Also the empty one, which every id begins with."""
    with pytest.raises(NotFound, match="is no container"):
        find_container(ONES, "zzz")
    with pytest.raises(InvalidArgument, match="is no name"):
        find_container(ONES, "")


def test_the_record_of_a_container() -> None:
    """By namespace and key; of several the one that was made last, for containerd counts on."""
    names = ["k8s.io/9/abcdef", "k8s.io/10/abcdef", "default/11/abcdef", "k8s.io/12/xabcdef", "remote/abcdef"]
    assert record_name(ONES[0], ["ours"], names) == "k8s.io/10/abcdef"
    with pytest.raises(NotFound, match="of container default/abc does not exist"):
        record_name(ONES[1], ["ours"], names)
    with pytest.raises(FailedPrecondition, match="runs on snapshotter 'ours', not on this one"):
        record_name(ONES[0], ["another"], names)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ns/1/key", ("ns", "key")),
        ("ns/1/a/b", ("ns", "a/b")),
        ("ns/1/", ("ns", "")),
        ("remote/0a1b", None),
        ("key", None),
        ("ns/x/key", None),
        ("ns/²/key", None),
        ("/1/key", None),
        ("ns//key", None),
    ],
)
def test_names_as_containerd_makes_them(name: str, parts: tuple[str, str] | None) -> None:
    """Namespace, number, key; anything else is none."""
    assert local_parts(name) == parts
