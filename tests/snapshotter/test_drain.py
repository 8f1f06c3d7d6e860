"""Who uses the snapshotter, and what to do in which order."""

from collections.abc import Mapping

from snapshotter.drain import ConfigLine, find_lines, steps, users
from snapshotter.engineview import Container, EngineView, Image, Place
from snapshotter.snapshots import Info, Kind

OURS = "cvmfs-snapshotter"


def view(
    *,
    containers: tuple[Container, ...] = (),
    images: tuple[Image, ...] = (),
    snapshots: Mapping[Place, Info] | None = None,
    problem: str = "",
) -> EngineView:
    listed = None if problem else snapshots or {}
    return EngineView("c.sock", "2.1", (OURS,), ("k8s.io", "ns"), containers, images, listed, problem)


def snapshot(key: str, parent: str = "", made: int = 1, kind: Kind = Kind.COMMITTED) -> tuple[Place, Info]:
    return Place(OURS, "ns", key), Info(kind, key, parent, made, made)


SANDBOX = Container("k8s.io", "pod1", "pause", OURS, "pod1", {"io.cri-containerd.kind": "sandbox"})
CONTAINER = Container("k8s.io", "c1", "app", OURS, "c1", {"io.cri-containerd.kind": "container"})
PLAIN = Container("ns", "box", "app", OURS, "box")
APP = Image("ns", "app:1", {OURS: ("top",)})


def test_nothing_uses_it() -> None:
    """What is on other snapshotters does not count; then only the configuration and the service are left."""
    others = view(
        containers=(Container("ns", "x", "i", "overlayfs", "x"),), images=(Image("ns", "i", {"overlayfs": ("top",)}),)
    )
    found = users(others, 0)
    assert not found.is_used
    assert [what.split()[0] for what, _ in steps(found, "/root")] == ["Take", "Stop"]


def test_each_kind_of_user_has_its_step_in_this_order() -> None:
    """What makes new users is switched off first, and the plugin is taken out last."""
    snapshots = dict([snapshot("top", "low"), snapshot("low"), snapshot("a", made=1), snapshot("b", "a", made=2)])
    lines = [ConfigLine("c.toml", 3, f'snapshotter = "{OURS}"'), ConfigLine("c.toml", 9, f"[proxy_plugins.{OURS}]")]
    found = users(view(containers=(SANDBOX, CONTAINER, PLAIN), images=(APP,), snapshots=snapshots), 9, config=lines)
    assert found.snapshots == ("ns/b", "ns/a")
    plan = steps(found, "/var/lib/x")
    assert [commands for _, commands in plan] == [
        [f'c.toml:3: snapshotter = "{OURS}"', "systemctl restart containerd"],
        [
            "crictl stopp pod1 && crictl rmp pod1", "crictl stop c1 && crictl rm c1",
            "ctr -n ns tasks kill -s SIGKILL box; ctr -n ns containers remove box",
        ],
        ["ctr -n ns images remove --sync app:1"],
        [f"ctr -n ns snapshots --snapshotter {OURS} remove {key}" for key in ("b", "a")],
        ["cvmfs-snapshotter drain"],
        [*(f"{line.path}:{line.number}: {line.text}" for line in lines), "systemctl restart containerd"],
        ["systemctl disable --now cvmfs-snapshotter", "rm -r /var/lib/x"],
    ]  # fmt: skip


def test_records_alone_are_users_too() -> None:
    """containerd may know nothing of them, and still something may run on them; what removes them is said."""
    found = users(view(), 1)
    assert found.is_used
    assert [commands for _, commands in steps(found, "/r")][1:3] == [
        ["cvmfs-snapshotter fsck --repair --older-than 0"], ["cvmfs-snapshotter drain"],
    ]  # fmt: skip
    assert not users(view(), None, "the daemon is away").is_used


def test_what_could_not_be_asked_is_said() -> None:
    """The daemon's records, and containerd's list."""
    found = users(view(problem="it cannot list"), None, "no daemon")
    assert found.unknown == ("no daemon", "containerd c.sock: it cannot list")


def test_names_are_quoted_in_commands() -> None:
    """They are other people's, and the commands are there to be pasted."""
    found = users(view(images=(Image("ns", "a; rm -r /", {OURS: ("x",)}),)), 0)
    assert ["ctr -n ns images remove --sync 'a; rm -r /'"] in [commands for _, commands in steps(found, "/r")]


CONFIG = f"""version = 2
# snapshotter = "{OURS}"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{OURS}"
[proxy_plugins.{OURS}]
  address = "/run/x/x.sock"
[proxy_plugins.other]
  snapshotter = 'other'
"""


def test_lines_of_the_configuration() -> None:
    """Those that choose the snapshotter, describe it, or name its socket; comments do not count."""
    lines = find_lines("c.toml", CONFIG, [OURS], "/run/x/x.sock")
    assert [(line.number, line.text) for line in lines] == [
        (4, f'snapshotter = "{OURS}"'), (5, f"[proxy_plugins.{OURS}]"), (6, 'address = "/run/x/x.sock"'),
    ]  # fmt: skip
