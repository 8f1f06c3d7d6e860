"""Each podman works by itself, as root and as a user: what the tests of our store stand on."""

import base64
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import mounts, podmanroot
from tests.engines.busybox import write_busybox
from tests.engines.podman import PODMANS, Bind, Podman, rootless_problem, running_podman
from tests.engines.process import EngineError, find_processes
from tests.engines.registry import Registry
from tests.images.ocilayout import CREATED, Image, read_layers
from tests.images.tarlayer import File

pytestmark = [pytest.mark.engine, pytest.mark.root]

_NAME = "registry.example.org/base:1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture(params=PODMANS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["root", "rootless"])
def rootless(request: pytest.FixtureRequest) -> bool:
    if request.param and (problem := rootless_problem()):
        pytest.skip(f"needs user namespaces: {problem}")
    return bool(request.param)


@pytest.fixture
def podman(version: str, rootless: bool, tmp_path: Path) -> Iterator[Podman]:
    with running_podman(version, tmp_path / "podman", rootless=rootless) as running:
        yield running


def _push(registry: Registry, directory: Path) -> tuple[Image, str]:
    image = write_busybox(directory / "layout", upper=[[File("greeting", b"from the second layer\n")]])
    return image, registry.push(image.path, image.ref, f"test/{directory.name}:1".lower())


def _write_store(directory: Path, owner: int) -> tuple[Path, Path]:
    """A store of one image of one layer, by hand, and the repository of that layer, whose files are `owner`'s."""
    image = write_busybox(directory / "layout")
    store, layer = directory / "store", directory / "repository" / "layerfs"
    layer.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(read_layers(image)[0])) as tar:
        tar.extractall(layer, filter="fully_trusted")
    for folder, folders, files in os.walk(directory / "repository"):
        for name in (".", *folders, *files):
            os.chown(Path(folder, name), owner, owner, follow_symlinks=False)
    image_id, layer_id = (digest.removeprefix("sha256:") for digest in (image.config, image.diff_ids[0]))
    items = {
        image.config: image.blob(image.config).read_bytes(),
        "manifest": image.blob(image.manifest).read_bytes(),
    }
    for name, body in items.items():
        file = name if name.isalnum() else "=" + base64.b64encode(name.encode()).decode()
        _write(store / "overlay-images" / image_id / file, body)
    described = {
        "id": image_id, "digest": image.manifest, "names": [_NAME], "layer": layer_id, "created": CREATED,
        "big-data-names": list(items),
        "big-data-sizes": {name: len(body) for name, body in items.items()},
        "big-data-digests": {name: f"sha256:{hashlib.sha256(body).hexdigest()}" for name, body in items.items()},
    }  # fmt: skip
    _write(store / "overlay-images/images.json", json.dumps([described]).encode())
    record = {"id": layer_id, "created": CREATED, "diff-digest": image.diff_ids[0], "diff-size": 1}
    _write(store / "overlay-layers/layers.json", json.dumps([record]).encode())
    for lock in ("overlay-images/images.lock", "overlay-layers/layers.lock"):
        _write(store / lock, b"")
    _write(store / "overlay" / layer_id / "link", b"BASE")
    (store / "overlay" / layer_id / "diff").symlink_to(layer)
    (store / "overlay/l").mkdir()
    (store / "overlay/l/BASE").symlink_to(f"../{layer_id}/diff")
    return store, directory / "repository"


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def test_version_is_the_one_named(podman: Podman) -> None:
    """The name of a version names the podman that answers, with overlayfs, as root or as a user."""
    assert podman.run("version", "--format", "{{.Version}}").stdout.startswith(f"{podman.version}.")
    info = json.loads(podman.run("info", "--format", "json").stdout)
    assert info["host"]["security"]["rootless"] is podman.rootless
    assert (info["store"]["graphDriverName"], info["host"]["ociRuntime"]["name"]) == ("overlay", "crun")


def test_pull_run_and_look_inside(podman: Podman, registry: Registry, tmp_path: Path) -> None:
    """An image is pulled from the loopback and runs; the host can look at a running container's root."""
    image, reference = _push(registry, tmp_path)
    before = registry.mark()
    assert podman.run("pull", "-q", reference).stdout.strip() == image.config.removeprefix("sha256:")
    assert sorted(registry.blob_requests(before)) == sorted([*image.layers, image.config])

    copied = json.loads(podman.exec("skopeo", "inspect", f"containers-storage:{reference}").stdout)
    assert copied["Layers"] == list(image.layers)

    said = podman.run("run", "--rm", reference, "sh", "-c", "cat /greeting; id -u; exit 3", check=False)
    assert (said.returncode, said.stdout) == (3, "from the second layer\n0\n")
    container = podman.run("run", "--detach", reference).stdout.strip()
    pid = podman.run("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    assert podman.inside(f"/proc/{pid}/root/greeting").read_bytes() == b"from the second layer\n"


def test_build_from_standard_input(podman: Podman, registry: Registry, tmp_path: Path) -> None:
    """A Containerfile given as input is built, its RUN is run, and the result runs."""
    _, reference = _push(registry, tmp_path)
    podman.run("build", "-q", "-t", "built:1", "-", stdin=f"FROM {reference}\nRUN cat /greeting > /built\n")
    assert podman.run("run", "--rm", "built:1", "cat", "/built").stdout == "from the second layer\n"


def test_additional_store(version: str, rootless: bool, tmp_path: Path) -> None:
    """An image of a store is listed as read-only and runs from files of a repository, by every tool."""
    store, repository = _write_store(tmp_path, podmanroot.UID if rootless else 0)
    binds = [Bind(repository, read_only=True)]
    with running_podman(version, tmp_path / "podman", stores=[store], binds=binds, rootless=rootless) as podman:
        (listed,) = json.loads(podman.run("images", "--format", "json").stdout)
        assert (listed["Names"], listed["ReadOnly"]) == ([_NAME], True)
        assert podman.run("run", "--rm", "base:1", "echo", "it runs").stdout == "it runs\n"
        assert _NAME.partition(":")[0] in podman.exec("buildah", "images").stdout
        shell = ["podman", "unshare"] if rootless else []
        shell += ["env", f"CONTAINERS_STORAGE_CONF={podman.storage_conf}"]
        assert _NAME in podman.exec(*shell, "containers-storage", "images").stdout
        inspect = ("skopeo", "inspect", "--config", f"containers-storage:{_NAME}")
        assert json.loads(podman.exec(*shell, *inspect).stdout)["created"] == CREATED
        with pytest.raises(EngineError, match="Read-only file system"):
            podman.exec("touch", store / "new", as_root=True)


@pytest.mark.fuse
def test_fuse_overlayfs(version: str, rootless: bool, tmp_path: Path) -> None:
    """With fuse-overlayfs that gives all files to the user, an image whose files are root's runs, and is written to."""
    store, repository = _write_store(tmp_path, 0)
    with running_podman(
        version, tmp_path / "podman", stores=[store], binds=[Bind(repository)], rootless=rootless,
        mount_program="fuse-overlayfs", mountopt="nodev,squash_to_root",
    ) as podman:  # fmt: skip
        script = "touch /etc/new; stat -c %u:%g /etc/passwd; grep ' / ' /proc/self/mounts"
        owner, mount = podman.run("run", "--rm", "base:1", "sh", "-c", script).stdout.splitlines()
        assert owner == "0:0"
        assert mount.startswith("fuse-overlayfs / ")


def test_service(version: str, rootless: bool, tmp_path: Path) -> None:
    """The service answers over its socket as long as its block runs, with images of a store among others."""
    store, repository = _write_store(tmp_path, podmanroot.UID if rootless else 0)
    with running_podman(
        version, tmp_path / "podman", stores=[store], binds=[Bind(repository)], rootless=rootless
    ) as podman:
        with podman.service() as service:
            assert [image["RepoTags"] for image in service.get("/images/json")] == [[_NAME]]
            assert service.request("GET", "/images/none/json")[0] == 404
        assert not service.is_serving()


def test_images_stay(version: str, rootless: bool, registry: Registry, tmp_path: Path) -> None:
    """A later podman in the same directory has the images of the earlier one, and no container of its."""
    _, reference = _push(registry, tmp_path)
    with running_podman(version, tmp_path / "podman", rootless=rootless) as podman:
        podman.run("run", "--detach", reference)
    before = registry.mark()
    with running_podman(version, tmp_path / "podman", rootless=rootless) as podman:
        assert podman.run("run", "--rm", reference, "cat", "/greeting").stdout == "from the second layer\n"
        assert podman.run("ps", "--quiet").stdout == ""
    assert registry.requests(before) == []


def test_stop_leaves_nothing(version: str, rootless: bool, registry: Registry, tmp_path: Path) -> None:
    """The end of a podman with running containers ends them, and the host has none of its mounts."""
    _, reference = _push(registry, tmp_path)
    with running_podman(version, tmp_path / "podman", rootless=rootless) as podman:
        podman.run("run", "--detach", reference, "sleep", f"1000{os.getpid()}")
        assert len(find_processes(f"1000{os.getpid()}")) >= 1
        assert mounts.mounts_below(tmp_path) == []
    assert find_processes(f"1000{os.getpid()}") == []
    assert mounts.mounts_below(tmp_path) == []
    assert not (tmp_path / "podman" / "namespace").exists()


def test_network_of_the_host_is_left_alone(podman: Podman, registry: Registry, tmp_path: Path) -> None:
    """A container that asks for a bridge fails, and the host, whose network this is, has none afterwards."""
    _, reference = _push(registry, tmp_path)
    before = {path.name for path in Path("/sys/class/net").iterdir()}
    assert podman.run("run", "--rm", "--network", "bridge", reference, "true", check=False).returncode
    made = {path.name for path in Path("/sys/class/net").iterdir()} - before
    assert not {name for name in made if name.startswith(("podman", "cni"))}


def test_failure_says_what_failed(podman: Podman) -> None:
    """A checked command that fails raises, with the version, the command and its last words."""
    with pytest.raises(EngineError, match=r"podman \d\.\d of .*'podman run --pull=never none.example.org/none'"):
        podman.run("run", "--pull=never", "none.example.org/none")
