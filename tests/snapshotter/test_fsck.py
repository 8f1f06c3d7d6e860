"""The comparison of containerd's view, the records and the disk: every case of a match, and what follows from it."""

from collections.abc import Sequence

from snapshotter.admin.values import Problem, Snapshot
from snapshotter.engineview import Container, EngineView, Image, Place
from snapshotter.fsck import Difference, Kind, compare
from snapshotter.snapshots import Info
from snapshotter.snapshots import Kind as Shape
from snapshotter.snapshotter import remote_name

NAME, ROOT, NOW = "cvmfs-snapshotter", "/var/lib/ours", 10**18
OLD = NOW - 3600 * 10**9
BASE, TOP = remote_name("base", ""), remote_name("top", remote_name("base", ""))


def record(number: int, name: str, parent: str = "", kind: str = "committed", made: int = OLD) -> Snapshot:
    repository = "unpacked" if name.startswith("remote/") else ""
    return Snapshot(name, kind, parent, number, made, made, repository=repository)


def known(
    key: str, parent: str = "", kind: Shape = Shape.COMMITTED, namespace: str = "ns", made: int = OLD
) -> tuple[Place, Info]:
    return Place(NAME, namespace, key), Info(kind, key, parent, made, made)


def view(
    *snapshots: tuple[Place, Info],
    containers: Sequence[Container] = (),
    images: Sequence[Image] = (),
    names: str = "ns two",
) -> EngineView:
    return EngineView("c.sock", "1", (NAME,), tuple(names.split()), tuple(containers), tuple(images), dict(snapshots))


def container(key: str, namespace: str = "ns", snapshotter: str = NAME) -> Container:
    return Container(namespace, key, "image", snapshotter, key)


def image(name: str, *chains: str) -> Image:
    return Image("ns", name, {NAME: chains, "overlayfs": ("elsewhere",)})


def found(seen: EngineView | None, *records: Snapshot, disk: Sequence[Problem] = ()) -> tuple[Difference, ...]:
    return compare(seen, records, disk, ROOT, NOW)


STACK = (record(1, BASE), record(2, TOP, BASE), record(3, "ns/7/c", TOP, "active"))
SEEN = (known("base"), known("top", "base"), known("c", "top", Shape.ACTIVE))


def test_what_agrees_is_no_difference() -> None:
    """Layers of a repository by their hash, local ones by their name's end, and those that two namespaces share."""
    shared = [known("base", namespace="two"), known("v", "base", Shape.VIEW, "two")]
    seen = view(*SEEN, *shared, containers=[container("c")], images=[image("i", "top")])
    assert found(seen, *STACK, record(4, "two/1/v", BASE, "view")) == ()


def test_the_same_layer_downloaded_in_one_namespace_and_served_in_another() -> None:
    """Each has its own record for the same key."""
    local = (record(4, "two/2/base"), record(5, remote_name("top", "two/2/base"), "two/2/base"))
    seen = view(*SEEN, known("base", namespace="two"), known("top", "base", namespace="two"))
    assert found(seen, *STACK, *local) == ()


def test_keys_with_slashes() -> None:
    """A client may take any key; only the first two parts of a name are containerd's."""
    assert found(view(known("a/1/b", kind=Shape.ACTIVE)), record(1, "ns/12/a/1/b", kind="active")) == ()


def test_what_an_image_or_a_container_needs_and_is_not_listed_is_lost() -> None:
    """Named once, with all who need it; what another snapshotter holds is nobody's business here."""
    images = [image("a:1", "gone"), image("a@sha256:1", "gone"), image("b:1", "top")]
    others = [container("x", snapshotter="overlayfs"), container("")]
    lost = found(view(*SEEN, containers=[container("c"), container("d"), *others], images=images), *STACK)
    assert [(one.kind, one.subject, one.users) for one in lost] == [
        (Kind.LOST, "ns/d", ("container ns/d",)),
        (Kind.LOST, "ns/gone", ("image ns/a:1", "image ns/a@sha256:1")),
    ]
    assert not any(one.mendable for one in lost)


def test_what_containerd_does_not_know_is_a_leftover() -> None:
    """Children come first, so that they can be removed in this order."""
    left = found(view(), *STACK)
    assert [(one.kind, one.subject) for one in left] == [
        (Kind.LEFTOVER, "ns/7/c"), (Kind.LEFTOVER, TOP), (Kind.LEFTOVER, BASE),
    ]  # fmt: skip
    assert all(one.mendable for one in left)


def test_a_young_leftover_is_not_removed() -> None:
    """containerd writes down what it made after it was made."""
    (one,) = found(view(), record(1, "ns/1/a", kind="active", made=NOW - 10**9))
    assert (one.kind, one.mendable) == (Kind.LEFTOVER, False)
    assert compare(view(), [record(1, "ns/1/a", made=NOW - 10**9)], [], ROOT, NOW, 0.5)[0].mendable


def test_records_of_a_namespace_that_containerd_does_not_have_are_somebody_elses() -> None:
    """They are not removed, nor is what they stand on."""
    left = found(view(), record(1, BASE), record(2, "buildkit/3/x", BASE, "active"), record(3, "key", kind="active"))
    assert [(one.kind, one.subject, one.mendable) for one in left] == [
        (Kind.FOREIGN, "buildkit/3/x", False), (Kind.LEFTOVER, BASE, False), (Kind.FOREIGN, "key", False),
    ]  # fmt: skip


def test_of_two_records_with_one_key_neither_is_removed() -> None:
    """containerd does not say which is the one; what they stand on stays too."""
    records = (record(1, "ns/1/base"), record(2, "ns/5/base"), record(3, "ns/6/c", "ns/5/base", "active"))
    assert found(view(known("base"), known("c", "base", Shape.ACTIVE)), *records) == ()
    alike = (record(1, "ns/1/low"), record(2, "ns/2/c", "ns/1/low", "view"), record(3, "ns/3/c", "", "active"))
    assert found(view(known("c", "", Shape.ACTIVE)), *alike) == ()


def test_parents_that_disagree_are_named_at_the_lowest_place() -> None:
    """And while one disagrees nothing is removed, for the one that containerd means may look like a leftover."""
    records = (
        record(1, "ns/1/a"),
        record(2, "ns/2/b"),
        record(3, "ns/3/c", "ns/1/a"),
        record(4, "ns/4/d", "ns/3/c", "active"),
    )
    seen = view(known("a"), known("b"), known("c", "b"), known("d", "c", Shape.ACTIVE))
    (one, *rest) = found(seen, *records, record(9, "ns/9/left"))
    assert (one.kind, one.subject) == (Kind.DISAGREES, "ns/c")
    assert "committed on 'b', and here 'ns/3/c' is committed on 'ns/1/a'" in one.problem
    assert [(left.kind, left.mendable) for left in rest] == [(Kind.LEFTOVER, False)]
    (kind,) = found(view(known("a", kind=Shape.ACTIVE)), record(1, "ns/1/a"))
    assert kind.kind is Kind.DISAGREES
    (unnamed,) = found(view(known("a")))
    assert "no record here has its name" in unnamed.problem


def test_what_was_made_after_the_records_were_read_does_not_disagree() -> None:
    """It is too new to be among them."""
    assert found(view(known("new", made=NOW + 1))) == ()


def test_a_damage_is_named_with_all_who_stand_on_it() -> None:
    """Also those that need it through other layers; a damage to what is made from the record can be mended."""
    seen = view(*SEEN, containers=[container("c")], images=[image("i", "top")])
    problems = [
        Problem(f"{ROOT}/snapshots/1/h", "is nothing", "pull again"),
        Problem(f"{ROOT}/snapshots/3/fs", "is missing", "pull again"),
        Problem(f"{ROOT}/snapshots/3/work", "is missing", "pull again"),
    ]
    base, upper, work = found(seen, *STACK, disk=problems)
    assert (base.kind, base.users, base.mendable) == (Kind.DISK, ("container ns/c", "image ns/i"), True)
    assert base.remedy == "`fsck --repair` makes it again, or pull again"
    assert (upper.users, upper.mendable, upper.remedy) == (("container ns/c",), False, "pull again")
    assert work.mendable


def test_directories_of_no_record() -> None:
    """A number is an orphan; what was kept after a restore, and what is none of our names, is a person's business."""
    unknown = "is none of our directories"
    problems = [
        Problem(f"{ROOT}/snapshots/44", unknown, "move it"),
        Problem(f"{ROOT}/snapshots/45", "is newer than the database that was restored", "look"),
        Problem(f"{ROOT}/snapshots/1.bak", unknown, "move it"),
        Problem(f"{ROOT}/snapshots/007", unknown, "move it"),
    ]
    assert [(one.kind, one.mendable) for one in found(view(), disk=problems)] == [
        (Kind.ORPHAN, True), (Kind.DISK, False), (Kind.DISK, False), (Kind.DISK, False),
    ]  # fmt: skip


def test_without_containerds_list_only_the_disk_is_looked_at() -> None:
    """Nothing is a leftover then, and nothing is lost."""
    silent = EngineView("c.sock", "1", (NAME,), ("ns",), (container("c"),), (), None, "it cannot list")
    problem = Problem(f"{ROOT}/snapshots/1/h", "is nothing", "pull again")
    for seen in (None, silent):
        (one,) = found(seen, *STACK, disk=[problem])
        assert one.kind is Kind.DISK
