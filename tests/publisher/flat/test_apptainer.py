"""Real Apptainer runs a flat tree through its public link: what the image's config says, as Docker would."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from publisher.flat.flat import FlatImage, Flats
from publisher.transactions.directory import DirectoryTarget
from publisher.unpacking.space import FreeSpace
from tests.engines import apptainerroot, debs
from tests.engines.busybox import base_entries
from tests.engines.podmanroot import HOME
from tests.engines.podmanspace import Bind, Space, space
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Entry, File, layer_tar
from tests.publisher.publishing import publish

pytestmark = [pytest.mark.engine, pytest.mark.root, pytest.mark.slow]

HOSTILE = ["it's", 'a"b', "$HOME `id` \\", "one\ntwo", "-n", ""]
SHOW = b'#!/bin/sh\nfor word in "$@"; do printf "<%s>" "$word"; done\nprintf "\\n[%s][%s]\\n" "$A" "$PATH"\n'
CONFIG = {
    "Entrypoint": ["./show", *HOSTILE],
    "Cmd": ["command"],
    "Env": ["PATH=/own:/bin", 'A=it\'s "$HOME"\n`id`', "UID=7", "A.B=x"],
    "WorkingDir": "/app",
    "Labels": {"org.example": 'v "1"'},
}
WORDS = "".join(f"<{word}>" for word in HOSTILE)


@dataclass(frozen=True)
class Apptainer:
    """Namespaces with Apptainer, a read-only repository, and layouts at /layouts."""

    inside: Space
    images: dict[str, Image]

    def __call__(self, verb: str, *arguments: str, user: bool = True) -> str:
        who = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"] if user else []
        home = HOME if user else "/root"
        clean = ["env", "-i", "PATH=/usr/bin:/bin", f"HOME={home}", "apptainer", "-s", verb]
        command = self.inside.command(*who, *clean, *arguments)
        return debs.Tool(Path(command[0]), {"PATH": "/usr/bin:/bin"}).run(*command[1:])

    def link(self, name: str) -> str:
        return f"/repository/{self.images[name].ref}"


@pytest.fixture(scope="module")
def apptainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apptainer]:
    base = tmp_path_factory.mktemp("apptainer")
    base.chmod(0o755)
    repository, images = base / "repository", dict[str, Image]()
    repository.mkdir()
    program = debs.BUSYBOX.tool("busybox").path.read_bytes()
    full = [*base_entries(), File("app/show", SHOW, mode=0o755), File("etc/hosts", b"192.0.2.9 own\n")]
    bare = [File("echo", program, mode=0o755)]
    described: dict[str, tuple[Sequence[Entry], Mapping[str, Any]]] = {
        "full": (full, CONFIG),
        "bare": (bare, {"Entrypoint": ["/echo", "from", "nothing"]}),
    }
    for name, (entries, config) in described.items():
        ref = f"registry.example/team/{name}:1"
        images[name] = write_image(base / "layouts" / name, [layer_tar(entries)], ref, config=config)
        publish(images[name], repository)
    with DirectoryTarget.at(repository, durable=False).begin() as transaction:
        records, fs = Repository("test", transaction.layout).find_record, transaction.layout.layerfs
        flats = Flats(transaction, records, fs, FreeSpace(repository, 0))
        for image in images.values():
            config_bytes = image.blob(image.config).read_bytes()
            flats.add(FlatImage(Reference.parse(image.ref), config_bytes, tuple(map(Digest.parse, image.layers))))
        transaction.show()
    binds = [Bind(repository, Path("/repository"), read_only=True), Bind(base / "layouts", Path("/layouts"))]
    own = base / "own"
    own.mkdir()
    with space(apptainerroot.root(), own, binds) as inside:
        yield Apptainer(inside, images)


@pytest.mark.parametrize("user", [True, False], ids=["user", "root"])
def test_a_run_is_the_entrypoint_with_command_or_arguments(apptainer: Apptainer, user: bool) -> None:
    """Every word as it is, a relative entrypoint from the image's working directory, the image's variables."""
    shown = '\n[it\'s "$HOME"\n`id`][/own:/bin:'
    assert f"{WORDS}<command>{shown}" in apptainer("run", "--userns", apptainer.link("full"), user=user)
    given = apptainer("run", "--userns", apptainer.link("full"), "$HOME", "-c", "", user=user)
    assert f"{WORDS}<$HOME><-c><>{shown}" in given


@pytest.mark.parametrize("user", [True, False], ids=["user", "root"])
def test_a_program_runs_in_the_tree(apptainer: Apptainer, user: bool) -> None:
    """With the image's variables, which the caller can set; the image's own hosts are below those of the host."""
    script = 'echo "$A"; cat /etc/hosts; ls -d /tmp /var/tmp'
    said = apptainer("exec", "--userns", "--env", "A=given", apptainer.link("full"), "sh", "-c", script, user=user)
    assert said.splitlines() == ["given", "127.0.0.1 localhost", "/tmp", "/var/tmp"]


def test_labels_and_the_runscript_are_shown(apptainer: Apptainer) -> None:
    """By inspect, from the directory."""
    assert 'org.example: v "1"' in apptainer("inspect", apptainer.link("full"))
    assert "set -- /app/./show" in apptainer("inspect", "--runscript", apptainer.link("full"))


def test_an_image_without_a_shell_runs(apptainer: Apptainer) -> None:
    """Apptainer knows the runscript for an OCI image's, and interprets it by itself."""
    assert apptainer("run", apptainer.link("bare"), "a  b").strip() == "from nothing a  b"


def test_an_image_that_apptainer_converts_runs_alike(apptainer: Apptainer) -> None:
    """The same words of a tame command line, and a container's files of the same names, but for those of its own."""
    apptainer("build", "--sandbox", "/tmp/converted", "oci:/layouts/bare", user=False)
    assert apptainer("run", "/tmp/converted", "x") == apptainer("run", apptainer.link("bare"), "x")
    listed = [
        {p.relative_to(tree).as_posix() for p in (tree / ".singularity.d").rglob("*")}
        for tree in (apptainer.inside.inside("/tmp/converted"), apptainer.inside.inside(apptainer.link("bare")))
    ]
    left_out = {"Singularity", "env/01-base.sh", "env/94-appsbase.sh", "env/95-apps.sh", "env/99-runtimevars.sh"}
    assert listed[0] - listed[1] == {f".singularity.d/{name}" for name in left_out}
    assert listed[1] - listed[0] == set()
