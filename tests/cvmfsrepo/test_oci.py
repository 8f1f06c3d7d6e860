"""References, manifests, indices and configs: what is out there is read, and what is hostile is InvalidArgument."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo import oci
from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.oci import Platform, Reference

CONFIG, LAYER = Digest("c" * 64), Digest("1" * 64)
HEX = "ab" * 32
DUCC_MANIFEST = (
    '{"SchemaVersion":2,"MediaType":"application/vnd.docker.distribution.manifest.v2+json",'
    '"Config":{"MediaType":"application/vnd.docker.container.image.v1+json","Size":7023,'
    f'"Digest":"{CONFIG}"}},"Layers":[{{'
    f'"MediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","Size":32654,"Digest":"{LAYER}"}}]}}'
)  # one line, as DUCC marshals its structure
INDEX = {
    "schemaVersion": 2,
    "manifests": [
        {"digest": str(LAYER), "size": 1, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {"digest": str(CONFIG), "size": 2, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": str(CONFIG), "size": 2},
    ],
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(str(LAYER)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Config", "layers", "Digest", "size", "manifests", "platform", "rootfs", "diff_ids", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def test_ducc_s_manifest() -> None:
    """Capitalised keys, the manifest of a real DUCC: config, layers, sizes and types are read."""
    manifest = oci.parse_manifest(DUCC_MANIFEST.encode())
    assert (manifest.config.digest, manifest.config.size) == (CONFIG, 7023)
    assert [(layer.digest, layer.size) for layer in manifest.layers] == [(LAYER, 32654)]
    assert manifest.layers[0].mediatype == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert manifest.mediatype in oci.MANIFEST_TYPES


def test_oci_manifest_with_annotations() -> None:
    """Keys in camel case; annotations keep their own, and unknown fields are passed over."""
    layer = {"mediaType": "x", "size": 1, "digest": str(LAYER), "annotations": {"Some.Key": "v"}, "urls": ["u"]}
    document = {"schemaVersion": 2, "config": {"digest": str(CONFIG), "size": 1}, "layers": [layer], "subject": None}
    manifest = oci.parse_manifest(encoded(document))
    assert manifest.layers[0].annotations == {"Some.Key": "v"}
    assert manifest.layers[0].mediatype == "x"


def test_config() -> None:
    """Diff ids in order; labels and all else do not matter, not even where they are called like a field of ours."""
    labels = {"Labels": {"digest": "not one", "diff_ids": 3}}
    rootfs = {"diff_ids": [str(LAYER), str(CONFIG)]}
    document = {"os": "linux", "architecture": "amd64", "config": labels, "rootfs": rootfs}
    config = oci.parse_config(encoded({**document, "created": "2024-01-01T00:00:00Z"}))
    assert config.rootfs.diff_ids == (LAYER, CONFIG)
    assert (config.os, config.architecture, config.created) == ("linux", "amd64", "2024-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "bad",
    [
        *(None, 1, True, [], {}, "", "sha256:", "x", HEX, {"hex": HEX}, f"sha256:{HEX}\n", f"sha256:{HEX.upper()}"),
        *("sha256:../../../etc/passwd", f"sha512:{HEX}", f" sha256:{HEX}", [f"sha256:{HEX}"]),
    ],
)
def test_a_hostile_digest_is_refused_everywhere(bad: object) -> None:
    """A digest is the text of one, in a config, a layer, an index and a list of diff ids."""
    good, hostile = {"digest": str(LAYER), "size": 1}, {"digest": bad, "size": 1}
    with pytest.raises(InvalidArgument):
        oci.parse_manifest(encoded({"config": hostile, "layers": [good]}))
    with pytest.raises(InvalidArgument):
        oci.parse_manifest(encoded({"config": good, "layers": [hostile]}))
    with pytest.raises(InvalidArgument):
        oci.parse_index(encoded({"manifests": [hostile]}))
    with pytest.raises(InvalidArgument):
        oci.parse_config(encoded({"rootfs": {"diff_ids": [bad]}}))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b'{"\xff":1}', b'"\\ud800"', b"{}" * 2, b"\0", b"NaN"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' * 600 + b"1" + b"}" * 600, b"9" * 10_000),
        *(b'{"layers":null,"config":null}', b'{"config":{"digest":"sha256:%s","size":1},"layers":[]}' % (b"a" * 64)),
        *(b'{"manifests":{}}', b'{"rootfs":[]}', b'{"rootfs":{"diff_ids":null}}', b'{"manifests":[1]}'),
    ],
)
def test_hostile_json_is_invalid(content: bytes) -> None:
    """Each parser refuses with InvalidArgument and a short message, whatever the bytes; is_index says no or yes."""
    for parse in (oci.parse_manifest, oci.parse_index, oci.parse_config):
        with pytest.raises(InvalidArgument) as caught:
            parse(content, "the input")
        assert str(caught.value).startswith("the input ")
        assert len(str(caught.value)) < 1000
    assert oci.is_index(content) is (content.startswith(b'{"manifests"'))


@pytest.mark.parametrize("size", [-1, 1.5, "1", None])
def test_a_size_is_a_count(size: object) -> None:
    """A negative size would pass every check of a limit."""
    with pytest.raises(InvalidArgument):
        oci.parse_index(encoded({"manifests": [{"digest": str(LAYER), "size": size}]}))


@given(st.binary(max_size=200) | json_values.map(encoded))
def test_nothing_but_invalid_argument(content: bytes) -> None:
    """For any bytes and any JSON: a value whose digests can be read, or InvalidArgument."""
    oci.is_index(content)
    for read in (
        lambda: [layer.digest for layer in oci.parse_manifest(content).layers],
        lambda: [entry.digest for entry in oci.parse_index(content).manifests],
        lambda: oci.parse_config(content).rootfs.diff_ids,
    ):
        try:
            read()
        except InvalidArgument:
            pass


def test_an_index_is_told_by_what_it_holds() -> None:
    """Not by its type, which DUCC and registries write as they like."""
    assert oci.is_index(encoded(INDEX))
    assert oci.is_index(b'{"Manifests":[]}')
    assert not oci.is_index(DUCC_MANIFEST.encode())


def test_choice_of_a_platform() -> None:
    """The first that fits; an empty variant accepts any, another one only itself."""
    index = oci.parse_index(encoded(INDEX))
    assert oci.choose_manifest(index, Platform("linux", "amd64")).digest == CONFIG
    assert oci.choose_manifest(index, Platform("linux", "arm64")).digest == LAYER
    assert oci.choose_manifest(index, Platform("linux", "arm64", "v8")).digest == LAYER
    with pytest.raises(InvalidArgument, match=r"'linux/riscv64'.*it offers: linux/arm64, linux/amd64"):
        oci.choose_manifest(index, Platform("linux", "riscv64"))
    with pytest.raises(InvalidArgument):
        oci.choose_manifest(index, Platform("linux", "arm64", "v7"))


@pytest.mark.parametrize(
    ("text", "registry", "repository", "suffix"),
    [
        ("debian", "docker.io", "library/debian", ":latest"),
        ("debian:12", "docker.io", "library/debian", ":12"),
        ("grafana/grafana:9", "docker.io", "grafana/grafana", ":9"),
        ("a/b/c", "docker.io", "a/b/c", ":latest"),
        ("registry.hub.docker.com/library/debian:12", "registry.hub.docker.com", "library/debian", ":12"),
        ("localhost/x", "localhost", "x", ":latest"),
        ("localhost:5000/x/y:T.a-g_1", "localhost:5000", "x/y", ":T.a-g_1"),
        ("[::1]:5000/x:1", "[::1]:5000", "x", ":1"),
        ("h.o/a__b/c---d.e:1", "h.o", "a__b/c---d.e", ":1"),
        (f"h.o/a@sha256:{HEX}", "h.o", "a", f"@sha256:{HEX}"),
        (f"h.o/a:1@sha256:{HEX}", "h.o", "a", ":1"),
        (f"debian@sha256:{HEX}", "docker.io", "library/debian", f"@sha256:{HEX}"),
    ],
)
def test_references(text: str, registry: str, repository: str, suffix: str) -> None:
    """Ports, Docker Hub's short names, tags and digests; the spelled-out form parses to the same."""
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.suffix) == (registry, repository, suffix)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", ":", "@", "x@", "x:", "x:@", ":1", "h.o/", "h.o/:1", "../../etc/passwd", "h.o/../x", "h.o/a/../b"),
        *("h.o//a", "/a", "a/", "h.o/A", "h.o/a:..", "h.o/a:.b", "h.o/a:b/c", "h.o/a:b:c", "h.o/a b", "h.o/a\n"),
        *("h.o:port/a", "h.o:123456/a", "-h.o/a", ".o/a", "h_o.x/a", "h.o/.a", "h.o/a..b", "h.o/a_", "h.o/a:é"),
        *("http://h.o/a", "oci:/path", "h.o/a@sha256:abc", f"h.o/a@sha512:{HEX}", f"h.o/a@sha256:{HEX}@sha256:{HEX}"),
        *("h.o/" + "a" * 256, "h.o/a:" + "t" * 129, "h.o/a\0", "\udcff", "[::1/a", "h.o/a:" + "x" * 10**6),
    ],
)
def test_hostile_references(text: str) -> None:
    """What would leave the directory of images, and what no engine takes, is refused in one short line."""
    with pytest.raises(InvalidArgument) as caught:
        Reference.parse(text)
    assert len(str(caught.value)) < 1000


@given(st.text(max_size=40) | st.text("ab.:/@-_[]sha256", max_size=40))
def test_any_reference_is_plain_or_refused(text: str) -> None:
    """Whatever is accepted has no part that a path would take for something else, and parses back."""
    try:
        reference = Reference.parse(text)
    except InvalidArgument:
        return
    parts = f"{reference.registry}/{reference.repository}{reference.suffix}".split("/")
    assert all(part not in ("", ".", "..") and "\0" not in part for part in parts)
    assert Reference.parse(str(reference)) == reference


def test_long_hostile_names_take_no_time() -> None:
    """The patterns do not backtrack: a megabyte is refused at once."""
    for text in ("a-" * 500_000, "h.o/" + "a_" * 500_000 + "!", "a." * 500_000 + "/x!", "-" * 10**6):
        with pytest.raises(InvalidArgument):
            Reference.parse(text)


def test_descriptors_are_made_by_hand_too() -> None:
    """The publisher makes some from sizes and digests that it computed."""
    assert oci.Descriptor(str(LAYER), 3).digest == LAYER
    assert msgspec.json.decode(msgspec.json.encode(oci.Descriptor(str(LAYER), 3)))["digest"] == str(LAYER)
