"""`listen` under a real systemd, as confined as its unit and the drop-in for directories have it: whatever an image
holds is published as it is without them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.tarlayer import Dir, Entry, File, Hardlink, Opaque, Symlink, Whiteout, layer_tar
from tests.privilege.booted import Booted, Service, booted
from tests.privilege.confined import privileges
from tests.publisher.listening.bodies import harbor, post
from tests.publisher.publishing import make_image, run
from tests.publisher.wishes.stub import Stub, running
from tests.snapshotter.nodes import eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

CONFIG = Path(__file__).resolve().parents[3] / "config"
BASE: tuple[Entry, ...] = (
    Dir("d", mode=0o2775, uid=7, gid=8), File("d/setuid", b"x", mode=0o4755, uid=65534, gid=65534),
    File("d/able", b"x", xattrs={"security.capability": bytes.fromhex("0100000200200000000000000000000000000000")}),
    Symlink("link", target="d"), Hardlink("again", "d/setuid"), File("d/gone", b"x"), Dir("o"), File("o/x", b"x"),
)  # fmt: skip
TOP: tuple[Entry, ...] = (Whiteout("d/gone"), Dir("o"), Opaque("o"), File("o/y", b"y"))


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    image = make_image(tmp_path / "image", layer_tar(BASE), layer_tar(TOP))
    with running(Stub(images={"group/image:1": image})) as served:
        yield served


@pytest.mark.parametrize("drop_in", [False, True])
def test_it_publishes_whatever_an_image_holds(stub: Stub, drop_in: bool) -> None:
    """Deletions, opaque directories, setuid files, capabilities, owners; its state is where the unit says."""
    name = f"{stub.address}/group/image:1"
    unit = CONFIG / "cvmfs-publisher-listen.service"
    words = ("listen", "--repository", "/srv/repository", "--allow", f"http://{stub.address}/*", "--flat")
    service = Service(unit, ("publisher.cli.main", *words, "--address", "127.0.0.1:0"), "listening on")
    more = (CONFIG / "cvmfs-publisher-directory.conf").read_text() if drop_in else ""
    with booted(drop_in=more, service=service) as node:
        address = re.findall(r"http://([^/]+)/webhook", node.log())[0]
        assert post(address, harbor(name)).status == 202
        eventually(lambda: re.search(f"(published|failed|given up) {re.escape(name)}.*\n", node.log()), 60)
        assert f"published {name}\n" in node.log()
        done = run("verify", f"docker://{name}", "--repository", str(node.own / "repository"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 faults, 0 known losses" in done.stdout
        assert (node.own / "repository" / name).is_symlink()
        _is_confined(node, drop_in)
        node.systemctl("stop")
        assert node.systemctl("show", "-p", "Result") == "Result=success\n"


def _is_confined(node: Booted, with_drop_in: bool) -> None:
    found = privileges(node.daemon)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    table = [line.split(" ") for line in Path(f"/proc/{node.daemon}/mountinfo").read_text().splitlines()]
    writable = {fields[4] for fields in table if "rw" in fields[5].split(",")}
    assert ("/" in writable) is not with_drop_in
    assert Path(f"{node.prefix}/var/lib/cvmfs-publisher/queue/jobs").is_dir()
