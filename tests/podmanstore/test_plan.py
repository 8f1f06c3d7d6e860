"""What a store of some images holds."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.errors import Internal
from podmanstore.ids import held_id, link_name, shim_id
from podmanstore.plan import STACK_LIMIT, Plan, check_links, plan
from podmanstore.records import LayerRecord
from podmanstore.stacks import Entry
from podmanstore.values import HeldImage, HeldLayer
from tests.podmanstore.holding import CATALOG, chain, image, layer, sha, shim, three_images

HIDE, WHITE = shim(b".cvmfscatalog", b".wh.x"), shim(b"x")
BASE, TWO, PLAIN = layer("base"), layer("two"), layer("plain", hide=None)
MARKED = layer("marked", hide=HIDE, white=WHITE)


def entry(made: Plan, identity: str) -> Entry:
    return next(each for each in made.entries if each.id == identity)


def record(made: Plan, identity: str) -> LayerRecord:
    return next(each for each in made.layers if each.id == identity)


def images(made: Plan) -> list[dict[str, Any]]:
    return list(json.loads(made.images_json))


def everything(made: Plan) -> tuple[object, ...]:
    return made.entries, made.layers_json, made.images_json, made.documents, made.left_out


def test_a_layer_alone_and_on_its_parents() -> None:
    """Each layer has an entry of its own with its true digests, and one for each chain that it ends."""
    made = plan([image("a", BASE, TWO), image("b", TWO, BASE)])
    ids = {held_id(BASE.layer), held_id(TWO.layer), *chain(BASE, TWO), *chain(TWO, BASE)}
    assert {each.id for each in made.entries} == {each.id for each in made.layers} == ids
    top, alone = record(made, chain(BASE, TWO)[1]), record(made, held_id(TWO.layer))
    assert (top.parent, alone.parent) == (chain(BASE)[0], "")
    for each in (top, alone):
        assert (each.compressed_digest, each.diff_digest) == (f"sha256:{TWO.layer}", f"sha256:{TWO.diff_id}")
        assert (each.compressed_size, each.diff_size, each.compression) == (TWO.size, TWO.tar_size, 2)


def test_what_stands_below_a_hidden_layer() -> None:
    """The shim is the entry's own directory; below it are the layer, its deletions, and then the parent's stack."""
    made = plan([image("a", BASE, MARKED)])
    base, top = chain(BASE, MARKED)
    assert entry(made, base) == Entry(base, CATALOG, (held_id(BASE.layer),))
    below = (held_id(MARKED.layer), shim_id(WHITE.key.hex), base, held_id(BASE.layer))
    assert entry(made, top) == Entry(top, HIDE, below)
    assert entry(made, shim_id(WHITE.key.hex)) == Entry(shim_id(WHITE.key.hex), WHITE)
    assert entry(made, held_id(BASE.layer)) == Entry(held_id(BASE.layer), BASE.target)


def test_a_shim_below_is_no_layer() -> None:
    """It is found as what others stand on, and by nothing else: no index lists it."""
    made = plan([image("a", MARKED)])
    assert shim_id(WHITE.key.hex) not in {each.id for each in made.layers}


def test_a_layer_that_needs_no_shim() -> None:
    """Its entry is a link to the layer, and on its own it stands on nothing."""
    made = plan([image("a", PLAIN, TWO)])
    assert entry(made, chain(PLAIN)[0]) == Entry(chain(PLAIN)[0], PLAIN.target)
    assert entry(made, chain(PLAIN, TWO)[1]).lower == (held_id(TWO.layer), chain(PLAIN)[0])


def test_nothing_stands_twice_in_a_stack() -> None:
    """Layers that repeat, shims that layers share, and a plain layer beside its own entry: overlayfs refuses them."""
    empty = layer("empty", hide=None)
    made = plan([image("a", BASE, empty, TWO, empty, BASE, empty, MARKED, PLAIN, MARKED, PLAIN)])
    layers = {BASE.target, empty.target, TWO.target, PLAIN.target, MARKED.target}
    shown = {each.id: each.content if isinstance(each.content, str) else each.content.key.hex for each in made.entries}
    for each in made.entries:
        stack = [shown[identity] for identity in (each.id, *each.lower)]
        assert len(set(stack)) == len(stack)
    top = entry(made, made.images[0].layer)
    assert {shown[identity] for identity in (top.id, *top.lower)} == layers | {
        CATALOG.key.hex,
        HIDE.key.hex,
        WHITE.key.hex,
    }


def test_catalog_shims_of_layers_below_vanish() -> None:
    """A stack of layers that hide nothing else takes one directory for each, and one for all their shims."""
    many = [layer(f"layer {number}") for number in range(100)]
    made = plan([image("deep", *many)])
    assert len(entry(made, made.images[0].layer).lower) == 100
    assert entry(made, made.images[0].layer).content == CATALOG


def test_layers_by_themselves_are_listed_first() -> None:
    """containers/storage copies from the first layer with a digest, and a shim has not the layer's files. After them
    come the others, each behind its parent."""
    listed = [each.id for each in plan(three_images()).layers]
    alone = {held_id(held.layer) for each in three_images() for held in each.layers}
    assert set(listed[: len(alone)]) == alone
    parents = {each.id: each.parent for each in plan(three_images()).layers if each.parent}
    assert all(listed.index(parent) < listed.index(identity) for identity, parent in parents.items())


def test_a_tar_split_file_belongs_to_each_entry_of_a_layer() -> None:
    """Also to one that is a shim: podman reads the files from right below, where the layer is."""
    plain, hidden = layer("plain", hide=None, tar_split="/p"), layer("hidden", tar_split="/h")
    made = plan([image("a", plain, hidden)])
    found = {each.id: each.tar_split for each in made.entries if each.tar_split}
    on_plain = chain(plain, hidden)[-1]
    assert found == {chain(plain)[0]: "/p", held_id(plain.layer): "/p", on_plain: "/h", held_id(hidden.layer): "/h"}
    (entry,) = (each for each in made.entries if each.id == on_plain)
    assert entry.lower[0] == held_id(hidden.layer)


def test_an_image_has_its_documents() -> None:
    """The config under its digest, the manifest under `manifest` and its digest, and the index that led to it; podman
    finds the image by each of the latter."""
    one = image("a", BASE, indexes=(b"index",))
    made = plan([one])
    [found] = images(made)
    keys = {"manifest": one.manifest, f"sha256:{one.id}": one.config}
    keys |= {f"manifest-sha256:{sha(content)}": content for content in (one.manifest, b"index")}
    assert found["big-data-names"] == sorted(keys)
    assert found["big-data-sizes"] == {key: len(content) for key, content in keys.items()}
    assert found["big-data-digests"] == {key: f"sha256:{sha(content)}" for key, content in keys.items()}
    assert (found["id"], found["digest"]) == (one.id, f"sha256:{sha(one.manifest)}")
    assert (found["names"], found["layer"], found["created"]) == ([*one.names], chain(BASE)[0], one.created)
    assert sorted(made.documents[one.id].values()) == sorted(keys.values())


def test_several_names_of_one_config() -> None:
    """Are one image with all of them, found by the digest of each manifest; `manifest` is an original one."""
    ours = image("z", BASE, config="same")
    again = image("y", BASE, config="same", manifest=b"A made one comes first by its bytes", is_original=False)
    made = plan([again, ours])
    [found] = images(made)
    assert found["names"] == ["registry.test/y:1", "registry.test/z:1"]
    assert found["digest"] == f"sha256:{sha(ours.manifest)}"
    assert f"manifest-sha256:{sha(again.manifest)}" not in found["big-data-names"]


def test_a_name_of_two_images() -> None:
    """podman would refuse the whole store: the newer image has it, and the other one is listed without."""
    old = HeldImage(("r/a:1", "r/old:1"), b"1", True, b"old", (BASE,), "2024-01-01T00:00:00Z")
    new = HeldImage(("r/a:1",), b"2", True, b"new", (TWO,), "2024-01-01T02:00:00.123456789+01:00")
    for order in ([old, new], [new, old]):
        made = plan(order)
        assert {each["id"]: each.get("names") for each in images(made)} == {old.id: ["r/old:1"], new.id: ["r/a:1"]}
        [out] = made.left_out
        assert (out.name, new.id[:12] in out.reason, old.id in out.reason) == ("r/a:1", True, True)


def test_one_layer_compressed_in_two_ways() -> None:
    """Has one id on its parents, for that depends on the tar; both blobs are found by themselves. Which of them stands
    there does not change once it is listed."""
    one, other = (HeldLayer(sha(blob), sha("tar"), f"/l/{blob}", 1, hide=CATALOG) for blob in ("gzip", "zstd"))
    first, second = (image(name, BASE, held, config=name) for name, held in (("a", one), ("b", other)))
    for listed in (first, second):
        before = plan([listed])
        both = plan([first, second], before.layers)
        top = chain(BASE, one)[1]
        assert record(both, top) == record(before, top)
        assert {held_id(one.layer), held_id(other.layer)} < {each.id for each in both.layers}
    assert everything(plan([first, second])) == everything(plan([second, first]))


def test_listed_layers_stay() -> None:
    """When no image needs them any more, as they were; images do not."""
    before = plan(three_images())
    made = plan([image("new", MARKED)], before.layers)
    assert set(before.layers) < {*made.layers}
    assert [each.names for each in made.images] == [("registry.test/new:1",)]
    assert plan([], made.layers).layers_json == made.layers_json
    assert plan([], made.layers).images_json == b"[]"


def test_a_layer_that_changed_is_told_apart() -> None:
    """By what its record says: where it links to, what hides its names, what stands below it."""

    def say(*layers: HeldLayer) -> str:
        return record(plan([image("a", *layers)]), chain(*layers)[-1]).metadata

    ways = [
        say(BASE, TWO),
        say(BASE, layer("two", "/elsewhere", hide=None)),
        say(BASE, layer("two", hide=None)),
        say(BASE, layer("two", hide=HIDE)),
        say(layer("base", hide=None), TWO),
        say(BASE, layer("two", white=WHITE)),
        say(BASE, layer("two", hide=None, tar_split="/t")),
    ]
    assert len(set(ways)) == len(ways)
    assert say(BASE, TWO) == ways[0]


def test_layers_only() -> None:
    """A store that lists no image: pulls find the layers all the same, and no name can be taken twice."""
    made, whole = plan(three_images(), layers_only=True), plan(three_images())
    assert (made.images_json, made.documents, made.left_out) == (b"[]", {}, ())
    assert (made.layers, made.entries) == (whole.layers, whole.entries)


def test_a_catalog_marker_of_the_image_below_one_of_the_repository() -> None:
    """Would be hidden too: the image is left out with its layers, and others are not."""
    own = layer("own", own_catalogs=(b"d/.cvmfscatalog",))
    over = layer("over", hide=shim(b".cvmfscatalog", b"d/.cvmfscatalog"))
    made = plan([image("bad", own, over), image("good", over, own), image("other", own, BASE)])
    assert {each.names[0] for each in made.images} == {"registry.test/good:1", "registry.test/other:1"}
    [out] = made.left_out
    assert out.name == "registry.test/bad:1"
    assert f"sha256:{over.layer} hides the repository's 'd/.cvmfscatalog'" in out.reason
    assert chain(own, over)[1] not in {each.id for each in made.layers}


def test_a_stack_that_overlayfs_does_not_take() -> None:
    """Is left out, and one that just fits is not."""
    many = [layer(f"layer {number}") for number in range(STACK_LIMIT)]
    made = plan([image("deep", *many), image("fits", *many[1:])])
    assert [each.names for each in made.images] == [("registry.test/fits:1",)]
    assert f"{STACK_LIMIT + 1} directories" in made.left_out[0].reason
    assert max(len(each.lower) for each in made.entries) + 1 == STACK_LIMIT


def test_an_image_without_layers() -> None:
    """Has no topmost one."""
    [found] = images(plan([image("empty")]))
    assert "layer" not in found


def test_two_ids_with_one_link_name() -> None:
    """Are refused with both, rather than one standing for the other."""
    seen: dict[str, str] = {}
    for number in range(5000):  # two of them have the same two first characters
        other = seen.setdefault(link_name(sha(str(number)))[:2], sha(str(number)))
        if other != sha(str(number)):
            break
    check_links([other, sha(str(number))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("podmanstore.plan.link_name", lambda identity: link_name(identity)[:2])
        with pytest.raises(Internal, match=f"({other}.*{sha(str(number))})|({sha(str(number))}.*{other})"):
            check_links([other, sha(str(number))])


_POOL = [
    BASE, TWO, PLAIN, MARKED, layer("w", hide=None, white=WHITE), layer("empty", hide=None), layer("base", "/other"),
    layer("own", own_catalogs=(b".wh.x",)), layer("same as a shim", hide=WHITE, white=WHITE),
    HeldLayer(sha("another blob"), BASE.diff_id, "/l/other", 7, None, 4, CATALOG),
]  # fmt: skip


@st.composite
def held_images(draw: st.DrawFn) -> Sequence[HeldImage]:
    """Images of few layers and fewer configs and names, so that they meet."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        layers = draw(st.lists(st.sampled_from(_POOL), max_size=5))
        names = tuple(draw(st.lists(st.sampled_from(["r/a:1", "r/b:1", "r/c:1"]), max_size=2, unique=True)))
        config = b"config of %a" % [held.diff_id for held in layers]
        created = draw(st.sampled_from(["2024-01-01T00:00:00Z", "2023-01-01T00:00:00+02:00"]))
        manifest = b"manifest %d" % draw(st.integers(0, number))
        indexes = tuple(draw(st.lists(st.sampled_from([b"i", b"j"]), max_size=2)))
        made.append(HeldImage(names, manifest, draw(st.booleans()), config, tuple(layers), created, indexes))
    return made


@given(held_images(), held_images(), st.randoms())
def test_the_order_of_the_input_does_not_matter(
    first: Sequence[HeldImage], then: Sequence[HeldImage], random: Any
) -> None:
    """Same images, same bytes, on an empty store and on one that lists others; and every promise of a plan holds."""
    before = plan(first).layers
    made = plan(then, before)
    shuffled, listed = list(then), list(before)
    random.shuffle(shuffled)
    random.shuffle(listed)
    assert everything(plan(shuffled, listed)) == everything(made)
    assert plan(then, made.layers).layers_json == made.layers_json
    ids = [each.id for each in made.layers]
    assert len(set(ids)) == len(ids)
    assert {each.id for each in before} <= set(ids)
    assert {each.layer for each in made.images} <= {*ids, ""}
    names = [name for each in made.images for name in each.names]
    assert len(set(names)) == len(names)
    assert {name for each in then for name in each.names} == {*names, *(out.name for out in made.left_out)}
    known = {each.id for each in made.entries}
    assert all(known.issuperset(each.lower) for each in made.entries)


@pytest.mark.bench
def test_a_large_repository() -> None:
    """A plan and its bytes of 1,000 images on 8,000 chains take a second or two on any machine."""
    shared = [layer(f"shared {number}") for number in range(400)]
    many = []
    for number in range(1000):
        below = [shared[(number // 10 + depth * 37) % 400] for depth in range(12)]
        many.append(image(f"image {number}", *below, *(layer(f"{number} {depth}") for depth in range(8))))
    started = time.monotonic()
    made = plan(many)
    assert made.layers_json.startswith(b"[")
    assert made.images_json.startswith(b"[")
    took = time.monotonic() - started
    assert len(made.layers) > 8000
    assert took < 15, "ten times what it takes"
