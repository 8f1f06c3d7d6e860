"""The store that the publisher keeps in a repository: podman runs from what is mounted, and nothing else is set up."""

import tempfile
from pathlib import Path

from cvmfsrepo.layout import Layout
from tests.cvmfsserver.fixture import FQRN, Published, cvmfs_repository
from tests.engines.busybox import write_busybox
from tests.engines.podman import Bind, running_podman
from tests.images.tarlayer import File
from tests.publisher.publishing import run

FIRST, SECOND = "docker.io/library/first:1", "docker.io/library/second:1"


def publish(cvmfs: Published, layout: Path, name: str) -> None:
    """The image into the repository, store and all."""
    image = write_busybox(layout, Path(name).name[:5], [[File("which", name.encode())]])
    done = run(
        *("image", image.source, "--name", name, "--cvmfs", FQRN, "--scratch", str(cvmfs.scratch), "--podman-store"),
        *("--cvmfs-root", str(cvmfs.root), "--cvmfs-server", str(cvmfs.command)),
    )
    assert done.returncode == 0, done.stderr


def test_podman_runs_from_the_repository(version: str) -> None:
    """Each image of a publication, with its own top layer on a base that both share; of the next one, too."""
    with tempfile.TemporaryDirectory(prefix="cv-", dir="/tmp") as directory, cvmfs_repository(Path(directory)) as cvmfs:
        Path(directory).chmod(0o755)
        for published in ([FIRST], [FIRST, SECOND]):
            publish(cvmfs, Path(directory, "layout"), published[-1])
            binds = [Bind(cvmfs.root, read_only=True)]
            store = Layout(cvmfs.root).podman_store
            with running_podman(version, Path(directory, version), stores=[store], binds=binds) as podman:
                for name in published:
                    done = podman.run("run", "--rm", "--network=none", "--pull=never", name, "cat", "/which")
                    assert done.stdout == name
