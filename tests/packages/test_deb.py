"""The Debian package on Debian 12 and 13: installed, started, upgraded under a running container, removed, purged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import built
from tests.packages.machine import Disk, disk
from tests.packages.node import CONFIG, CONTAINER, STATE, UNIT, World, installed, node, world
from tests.packages.trees import RELEASES, Tree
from tests.standins import PROJECT

pytestmark = [pytest.mark.engine, pytest.mark.fuse, pytest.mark.root, pytest.mark.slow]

SHOWN = "one\none\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(params=RELEASES, scope="module")
def debian(request: pytest.FixtureRequest) -> Tree:
    """With containerd."""
    return Tree(request.param, "node")


@pytest.fixture(scope="module")
def prepared(debian: Tree, shared: World) -> Iterator[Disk]:
    """The package is installed and configured, and an image is pulled."""
    with installed(shared, debian) as made:
        yield made


@pytest.fixture
def written(prepared: Disk) -> Iterator[Disk]:
    """The same for one test, which may write to it."""
    with disk(prepared) as made:
        yield made


def test_it_is_installed_without_a_network_and_serves(shared: World, debian: Tree) -> None:
    """dpkg needs nothing but the file. The daemon runs and will be started again, containerd is not touched, and no
    other unit is started or enabled; the configuration file is the administrator's."""
    with disk(debian) as empty, node(shared, empty) as it:
        before = it.pids()[1]
        it.install()
        assert it.machine.shown(UNIT, "ActiveState", "UnitFileState") == ["active", "enabled"]
        assert it.pids()[1] == before
        assert it.version() == built.VERSION
        others = {p.name for p in (PROJECT / "config").iterdir() if p.suffix in (".service", ".timer")} - {UNIT}
        states = {name: it.machine.shown(name, "ActiveState", "UnitFileState") for name in others}
        assert states == {name: ["inactive", "static" if not _installs(name) else "disabled"] for name in others}
        assert it.machine.say("dpkg-query --show --showformat='${Conffiles}' cvmfs-snapshotter").split()[0] == CONFIG
        for name in ("cvmfs-podmanstore", "cvmfs-publisher"):
            assert it.machine.say(f"{name} --help").startswith("Usage")


def _installs(name: str) -> bool:
    return "[Install]" in (PROJECT / "config" / name).read_text()


def test_libraries_are_compiled_for_a_python_that_comes(shared: World, written: Disk) -> None:
    """When Debian's `python3` is another one, as in an upgrade from 12 to 13, what dpkg then tells the package compiles
    the libraries; the daemon, which runs on what it has loaded, is not restarted."""
    with node(shared, written) as it:
        before, compiled = it.pids(), "find /usr/lib/cvmfs-snapshotter -name 'server.cpython-*.pyc'"
        assert it.machine.say(compiled).count("\n") > 0
        it.machine.say("find /usr/lib/cvmfs-snapshotter -name __pycache__ -prune -exec rm -r {} +")
        it.machine.say("dpkg-trigger --by-package=python3-minimal /usr/bin/python3 && dpkg --triggers-only --pending")
        assert it.machine.say(compiled).count("\n") > 0
        assert it.pids() == before


def test_containerd_starts_when_it_answers(shared: World, written: Disk) -> None:
    """At a boot: the daemon has said that it serves before the first program of containerd's unit is started."""
    with node(shared, written) as it:
        assert it.machine.shown(UNIT, "Type", "ActiveState") == ["notify", "active"]
        assert "containerd.service" in it.machine.shown(UNIT, "Before")[0].split()
        (serves,) = it.machine.shown(UNIT, "ActiveEnterTimestampMonotonic")
        (begins,) = it.machine.shown("containerd.service", "InactiveExitTimestampMonotonic")
        assert 0 < int(serves) <= int(begins)


def test_an_upgrade_is_not_noticed(shared: World, written: Disk) -> None:
    """By a container that runs and by containerd: neither is restarted, and the root file system is still read. The
    state is as it was, the daemon is the new one, and serves the next container."""
    with node(shared, written) as it:
        process, before, state = it.run(CONTAINER), it.pids(), it.snapshots()
        assert it.read(CONTAINER) == SHOWN
        it.install(built.NEXT)
        assert it.version() == built.NEXT
        after = it.pids()
        assert (after[0] != before[0], after[1]) == (True, before[1])
        assert (it.task(CONTAINER), it.snapshots()) == (process, state)
        assert it.read(CONTAINER) == SHOWN
        it.run("next")
        assert it.read("next") == SHOWN


def test_a_removal_keeps_the_state(shared: World, written: Disk) -> None:
    """The daemon ends, the container does not, and the message names the command that leads out; installed again, the
    daemon takes the state up and serves from it."""
    with node(shared, written) as it:
        process, engine, state = it.run(CONTAINER), it.pids()[1], it.snapshots()
        said = it.machine.say("dpkg --remove cvmfs-snapshotter")
        assert f"stays in {STATE}" in said
        assert "cvmfs-snapshotter drain" in said
        assert (it.pids(), it.task(CONTAINER)) == (("0", engine), process)
        assert it.read(CONTAINER) == SHOWN
        assert it.machine.type("ls /usr/lib/cvmfs-snapshotter").status != 0
        it.machine.say(f"echo '# since then' >> {CONFIG}")
        it.install()
        assert it.machine.say(f"tail -n 1 {CONFIG}") == "# since then\n"
        assert (it.snapshots(), it.task(CONTAINER), it.pids()[1]) == (state, process, engine)
        it.run("next")
        assert it.read("next") == SHOWN


def test_a_purge_refuses_while_there_are_snapshots(shared: World, written: Disk) -> None:
    """It fails, says why and how to go on, and keeps the state and the package's last script; dpkg is fit for other
    work meanwhile. Installed again, it has the administrator's configuration. When nothing uses the snapshotter any
    more, the same command removes all that was ours."""
    with node(shared, written) as it:
        process, told, state = it.run(CONTAINER), it.machine.say(f"cat {CONFIG}"), it.snapshots()
        for _ in range(2):
            refused = it.machine.type("dpkg --purge cvmfs-snapshotter")
            assert refused.status == 1
            assert f"state '{STATE}': not removed" in refused.said
            assert "cvmfs-snapshotter drain" in refused.said
            assert (it.package_state(), it.task(CONTAINER)) == ("config-files", process)
            assert it.read(CONTAINER) == SHOWN
            assert it.machine.say("dpkg --audit; dpkg --configure --pending") == ""
        it.install()
        assert (it.machine.say(f"cat {CONFIG}"), it.snapshots()) == (told, state)
        assert it.machine.type("cvmfs-snapshotter drain").status == 3
        it.leave()
        it.machine.say("dpkg --purge cvmfs-snapshotter")
        for place in (STATE, "/run/containerd-cvmfs-grpc", "/usr/lib/cvmfs-snapshotter", str(Path(CONFIG).parent)):
            assert it.machine.type(f"test -e {place}").status == 1, place
        assert it.machine.type("ls /var/backups | grep cvmfs").said == ""
        assert it.machine.type("dpkg-query --show cvmfs-snapshotter").status == 1
