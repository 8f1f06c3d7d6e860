"""What we tell containerd is loaded by real ones, and the doctor judges what they make of right and wrong files."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from snapshotter.cli.config_command import config as config_command
from snapshotter.engineconfig.generator import PLUGIN
from snapshotter.engineconfig.program import dump_config
from tests.cli.commands import command
from tests.engines import debs
from tests.engines.busybox import push_pause, write_busybox
from tests.engines.containerd import VERSIONS, Containerd
from tests.engines.cri import Cri
from tests.engines.node import Snapshotter
from tests.engines.registry import Registry
from tests.fidelity.publishing import publish
from tests.images.ocilayout import Image
from tests.images.tarlayer import Dir, File

pytestmark = [pytest.mark.engine, pytest.mark.root]

LABELS = {f"containerd.io/snapshot/cri.{name}" for name in ("image-ref", "layer-digest", "image-layers", "manifest-digest")}  # noqa: E501  # fmt: skip

_OWN_1 = """
[grpc]
  address = "@dir@/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "@sandbox@"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@dir@/cni"
    conf_dir = "@dir@/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "@dir@/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "@runc@"
      Root = "@dir@/runc"
"""

_OWN_2 = """
[grpc]
  address = "@dir@/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "@dir@/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "@sandbox@"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "@dir@/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "@dir@/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "@runc@"
      Root = "@dir@/runc"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""


class Told(Containerd):
    """An engine that was told exactly what we print, beside what it needs to run in a directory of its own."""

    def __init__(self, version: str, sandbox: str, snapshotter: Snapshotter, text: str) -> None:
        super().__init__(version, sandbox, snapshotter.proxy)
        self._text = text

    def configuration(self) -> str:
        own = _OWN_2 if self.version.startswith("2.") else _OWN_1
        top = 'root = "@dir@/root"\nstate = "@dir@/state"\n'
        values = {
            "dir": str(self.directory), "sandbox": self.sandbox_image, "runc": str(debs.RUNC.tool("runc").path),
        }  # fmt: skip
        return re.sub(r"@(\w+)@", lambda match: values[match[1]], top + self._text + own)


@dataclass(frozen=True)
class World:
    """A registry and a repository with one image of two layers, and our daemon."""

    registry: Registry
    sandbox: str
    image: Image
    reference: str
    directory: Path
    snapshotter: Snapshotter

    def printed(self, monkeypatch: pytest.MonkeyPatch, version: str, *given: str) -> str:
        """Our command's standard output for an engine, whose program it asks unless a version is given."""
        with engine_environment(monkeypatch, version) as program:
            arguments = ["--containerd", program, *self.snapshotter.arguments(), *given]
            done = CliRunner().invoke(config_command, ["containerd", *arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    def findings(self, monkeypatch: pytest.MonkeyPatch, version: str, file: Path) -> dict[str, tuple[str, str]]:
        """Severity and text of what the doctor finds in a file, by check; the node itself is not asked about."""
        with engine_environment(monkeypatch, version) as program:
            given = ["--containerd", program, "--containerd-config", str(file), *self.snapshotter.arguments(), "--json"]
            done = command("doctor", *given)
        found = done.json
        assert done.status == (3 if any(one["severity"] == "error" for one in found) else 0)
        return {one["check"]: (one["severity"], one["what"]) for one in reversed(found)}

    def judged(self, monkeypatch: pytest.MonkeyPatch, version: str, text: str) -> dict[str, tuple[str, str]]:
        file = self.directory / "judged.toml"
        file.write_text(text)
        return self.findings(monkeypatch, version, file)


@contextmanager
def engine_environment(monkeypatch: pytest.MonkeyPatch, version: str) -> Iterator[str]:
    """The engine's program, while its libraries can be found."""
    packages = debs.CONTAINERD[version]
    with monkeypatch.context() as patch:
        for name, value in debs.environment(packages.root()).items():
            patch.setenv(name, value)
        yield str(packages.tool("containerd").path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("doctor")
    image = write_busybox(directory / "layout", "base", [[Dir("data"), File("data/one", b"one\n")]])
    with Registry(directory / "registry") as registry:
        reference = registry.push(directory / "layout", image.ref, "test/base:1")
        publish(image, directory / "repository", reference)
        with Snapshotter(directory / "state", directory / "repository") as snapshotter:
            yield World(registry, push_pause(registry), image, reference, directory, snapshotter)


@pytest.mark.parametrize("version", [*VERSIONS, "2.1 as 2.0"])
def test_what_we_print_makes_an_engine_serve(
    world: World, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each engine loads it: the plugin is listed, a CRI pull sends every label and downloads no layer, kubelet is told
    of our disk, a container runs, and the doctor finds nothing wrong. The text for 2.0 works on 2.1."""
    version, _, generation = version.partition(" as ")
    given = ["--containerd-version", generation] if generation else []
    with Snapshotter(tmp_path / "state", world.directory / "repository") as snapshotter:
        own = replace(world, snapshotter=snapshotter)
        text = own.printed(monkeypatch, version, *given)
        with Told(version, world.sandbox, snapshotter, text) as engine, Cri(engine.socket) as cri:
            check_serving(own, engine, cri)
            found = own.findings(monkeypatch, version, engine.directory / "config.toml")
    assert_well(found, version)


def check_serving(world: World, engine: Containerd, cri: Cri) -> None:
    """The plugin is there, layers are named and served, a container runs."""
    listed = [line.split() for line in engine.ctr("plugins", "ls").splitlines()]
    assert [line[-1] for line in listed if PLUGIN in line] == ["ok"]
    mark = world.registry.mark()
    cri.pull(world.reference)
    assert set(world.registry.blob_requests(mark)) & set(world.image.layers) == set()
    assert cri.run(world.reference, ["/bin/cat", "/data/one"]).output == "one\n"
    with world.snapshotter.client() as client:
        infos = [info for info in client.walk() if "containerd.io/snapshot/cri.layer-digest" in info.labels]
    served = {info.labels["containerd.io/snapshot/cri.layer-digest"]: info.labels for info in infos}
    assert set(served) >= set(world.image.layers)
    for layer in world.image.layers:
        assert set(served[layer]) >= {*LABELS, "containerd.io/snapshot.ref"}
    if engine.version != "1.6":
        assert str(world.snapshotter.root) in cri.image_filesystems()


def assert_well(found: dict[str, tuple[str, str]], version: str) -> None:
    """No error anywhere; no warning about the engine but what 1.6 cannot do."""
    wrong = {check: finding for check, finding in found.items() if finding[0] != "ok" and check != "space"}
    assert set(wrong) == ({"exports.root"} if version == "1.6" else set()), wrong
    assert all(severity == "warning" for severity, _ in wrong.values())


def line_without(pattern: str) -> Callable[[str], str]:
    """Takes out the lines that match."""
    return lambda text: "\n".join(line for line in text.splitlines() if not re.search(pattern, line))


def put(pattern: str, instead: str) -> Callable[[str], str]:
    """Replaces what matches, which must be there."""

    def change(text: str) -> str:
        assert re.search(pattern, text), text
        return re.sub(pattern, instead, text)

    return change


_RUNTIMES = (
    '\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n  runtime_type = "io.containerd.runc.v2"\n'
)
_OF_2 = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\n  snapshotter = "cvmfs-snapshotter"\n'


@dataclass(frozen=True)
class Wrong:
    """One fault in what we print for these engines, the check that must see it, and words of its finding."""

    name: str
    versions: tuple[str, ...]
    change: Callable[[str], str]
    check: str
    what: str
    severity: str = "error"


_LOCAL_PULL = (r"(cri.v1.images.\])", r"\1\n  use_local_image_pull = true")
_DOWNLOADS = (r"(cri.v1.images.\])", r"\1\n  max_concurrent_downloads = 5")
_SNAPSHOTTER, _TYPE = r'(?m)^  snapshotter = ".*"', '  type = "snapshot"'
_OF_RUNC = f'{_RUNTIMES}  snapshotter = "overlayfs"\n'
_NO_CRI = 'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'

WRONG = [
    Wrong("labels off", ("1.6", "1.7"), line_without("disable_snapshot_ann"), "labels", "as by default"),
    Wrong("address", VERSIONS, put(r'address = ".*"', 'address = "/x.sock"'), "proxy plugin", "points to /x.sock"),
    Wrong("misspelt", VERSIONS, put(_SNAPSHOTTER, '  snapshotter = "cvmfs"'), "snapshotter", "is no plugin"),
    Wrong("overlayfs", VERSIONS, put(_SNAPSHOTTER, '  snapshotter = "overlayfs"'), "snapshotter", "not to cvmfs-snap"),
    Wrong("no version", VERSIONS, line_without("^version"), "configuration", "has no line `version = "),
    Wrong("no root", ("1.7", "2.1"), line_without("^    root = "), "exports.root", "has no root"),
    Wrong("other root", ("1.7", "2.1"), put('    root = ".*"', '    root = "/x"'), "exports.root", "names /x"),
    Wrong("rebase", ("1.7",), put(_TYPE, f'{_TYPE}\n  capabilities = ["rebase"]'), "capabilities", "rebase"),
    Wrong("rebase", ("2.1",), put('"only-remap-ids"', '"only-remap-ids", "rebase"'), "capabilities", "rebase"),
    Wrong("only-remap-ids", ("2.1",), line_without("^  capab"), "capabilities", "not advertise", "warning"),
    Wrong("format", ("1.6",), lambda _: "version = 3\n", "configuration", "is of version 3"),
    Wrong("format", ("1.7",), lambda _: "version = 3\n", "configuration", "unsupported config version `3`"),
    Wrong("no TOML", VERSIONS, lambda _: "version = [\n", "configuration", "is not TOML"),
    Wrong("runtime", ("1.7",), lambda text: text + _OF_RUNC, "runtimes", "runtime runc has the snapshot", "warning"),
    Wrong("no cri", ("1.7",), lambda text: _NO_CRI + text, "configuration", "disabled_plugins", "warning"),
    Wrong("no export", ("2.1",), line_without("enable_remote_snapshot_annotations"), "labels", "lacks enable_remote"),
    Wrong("no unpack", ("2.1",), lambda text: text[: text.index("[[plugins")], "unpack_config", "there is no [[plug"),
    Wrong("unpack", ("2.1",), put(r'(form = .*\n  snap.* = ).*', r'\1"overlayfs"'), "unpack_config", "into overlayfs"),
    Wrong("local pull", ("2.1",), put(*_LOCAL_PULL), "labels", "use_local_image_pull"),
    Wrong("downloads", ("2.1",), put(*_DOWNLOADS), "labels", "max_concurrent_downloads"),
    Wrong("format 2 without runtimes", ("2.1",), lambda _: _OF_2, "snapshotter", "silently takes overlayfs"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "version"), [pytest.param(one, of, id=f"{of}-{one.name}") for one in WRONG for of in one.versions]
)
def test_each_wrong_configuration_is_named(
    world: World, wrong: Wrong, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we print with one fault in it: the real engine reads it, and the doctor names the fault."""
    found = world.judged(monkeypatch, version, wrong.change(world.printed(monkeypatch, version)))
    severity, said = found[wrong.check]
    assert wrong.what in said
    assert severity == wrong.severity


def test_a_version_2_file_with_runtimes_is_read_by_2_1(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a table of runtimes its settings hold: labels through a local pull; ctr lacks its table, and 2.1 what
    the snapshotter can."""
    text = world.printed(monkeypatch, "2.1", "--containerd-version", "1.7") + _RUNTIMES
    found = world.judged(monkeypatch, "2.1", text)
    wrong = {check: severity for check, (severity, _) in found.items() if severity != "ok" and check != "space"}
    assert wrong == {"unpack_config": "warning", "capabilities": "warning"}


def test_the_daemons_own_faults_are_named_beside_a_right_engine(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is told the right thing, but the daemon is dead; then its file is left over."""
    with Snapshotter(tmp_path / "state", world.directory / "repository") as snapshotter:
        own = replace(world, snapshotter=snapshotter)
        text = own.printed(monkeypatch, "2.1")
        snapshotter.kill9()
        assert "Connection refused" in own.judged(monkeypatch, "2.1", text)["socket"][1]
        snapshotter.address.unlink()
        assert "does not exist" in own.judged(monkeypatch, "2.1", text)["socket"][1]


@pytest.mark.parametrize(("version", "kept"), [("1.6", False), ("1.7", False), ("2.1", True)])
def test_imports_replace_or_merge_as_we_say(
    world: World, version: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 1.x an imported file takes the place of CRI's whole table, in 2.1 it is merged: what is printed says so."""
    (tmp_path / "ours.toml").write_text(world.printed(monkeypatch, version))
    main = f'version = {3 if kept else 2}\nimports = ["{tmp_path}/ours.toml"]\n'
    table = "io.containerd.cri.v1.images" if kept else "io.containerd.grpc.v1.cri"
    own = f'  [plugins."{table}".pinned_images]\n    sandbox = "mine:1"\n' if kept else '  sandbox_image = "mine:1"\n'
    (tmp_path / "config.toml").write_text(f'{main}[plugins."{table}"]\n{own}')
    with engine_environment(monkeypatch, version) as program:
        dumped = dump_config(program, str(tmp_path / "config.toml"))
    assert ("mine:1" in dumped) is kept
    assert_well(world.findings(monkeypatch, version, tmp_path / "config.toml"), version)
