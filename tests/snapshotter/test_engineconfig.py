"""What containerd is told, and what is read of what it was told."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cvmfsrepo.errors import FailedPrecondition, InvalidArgument
from snapshotter.cli.config_command import config as config_command
from snapshotter.config import Config
from snapshotter.engineconfig import program
from snapshotter.engineconfig.distributions import DISTRIBUTIONS, PLAIN, detect
from snapshotter.engineconfig.generator import PLUGIN, containerd_config, instructions, platform_of
from snapshotter.engineconfig.reading import EngineConfig, parse_config
from snapshotter.engineconfig.versions import Version

CONFIG = Path(__file__).resolve().parents[2] / "config"
VERSIONS = ("1.6", "1.7", "2.0", "2.1", "2.2", "2.4")


def generated(version: str, address: str = "/run/s.sock", root: str = "/r") -> EngineConfig:
    """What is read of what is printed for a version."""
    return parse_config(containerd_config(Version.parse(version), address, root, "linux/amd64"), version)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Version(1, 6, 20)),
        ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", Version(2, 1, 9)),
        ("containerd github.com/k3s-io/containerd v2.0.5-k3s1 abcdef0", Version(2, 0, 5)),
        ("containerd containerd.io 1.7.24 88bf19b2105c8b17560993bee28a01ddc2f97182", Version(1, 7, 24)),
        ("v1.7", Version(1, 7)),
    ],
)
def test_versions_of_all_builds_are_read(text: str, version: Version) -> None:
    """The release is found in what each distribution's program prints, and in what a person writes."""
    assert Version.parse(text) == version


@pytest.mark.parametrize("text", ["", "containerd", "two", "github.com/containerd/v2"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """A refusal names the text and shows the form."""
    with pytest.raises(InvalidArgument, match=r"is not a version; write it as 1\.7"):
        Version.parse(text)


def test_a_series_counts_as_its_newest_release() -> None:
    """`1.7` has what came with 1.7.16, 1.7.15 has not; later series have all of it."""
    assert Version(1, 7).at_least(1, 7, 16)
    assert not Version(1, 7, 15).at_least(1, 7, 16)
    assert Version(2, 0, 0).at_least(1, 7, 16)
    assert not Version(1, 10, 0).at_least(2, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_generation_gets_all_images_labels_and_accounting(version: str) -> None:
    """Images go to our plugin at the socket, layers are named, and kubelet finds the disk."""
    found = generated(version)
    proxy = found.proxies[PLUGIN]
    assert found.version == (2 if version.startswith("1") else 3)
    assert (proxy.type, proxy.address, proxy.exports["root"]) == ("snapshot", "/run/s.sock", "/r")
    assert proxy.capabilities == (() if version.startswith("1") else ("only-remap-ids",))
    assert found.snapshotter == PLUGIN
    assert found.annotations_disabled == (version not in ("1.6", "1.7", "2.0"))
    if not version.startswith("1"):
        assert proxy.exports["enable_remote_snapshot_annotations"] == "true"
        assert found.unpack == (("linux/amd64", PLUGIN),)


@pytest.mark.parametrize(
    ("version", "name"),
    [("1.6", "1"), ("1.7", "1"), ("1.7.30", "1"), ("2.0", "2.0"), ("2.1", "2"), ("2.1.9", "2"), ("2.3", "2")],
)
def test_files_of_config_are_what_is_printed(version: str, name: str) -> None:
    """A person who copies the file gets what the command prints with the defaults."""
    node = Config()
    printed = containerd_config(Version.parse(version), node.address, node.root, "linux/amd64")
    assert (CONFIG / f"containerd-{name}.toml").read_text() == printed


def test_paths_are_quoted() -> None:
    """An address with quotes, backslashes and braces arrives as it is."""
    address, root = '/run/a "b"\\{c}/s', "/r/ü{plugin}"
    for version in VERSIONS:
        proxy = generated(version, address, root).proxies[PLUGIN]
        assert (proxy.address, proxy.exports["root"]) == (address, root)


def test_an_old_containerd_is_refused() -> None:
    """Nothing is printed for an engine that was never tested."""
    with pytest.raises(InvalidArgument, match=r"is too old; upgrade containerd to 1\.6"):
        containerd_config(Version(1, 4, 12), "/a", "/r", "linux/amd64")


def test_platforms_are_named_as_containerd_does() -> None:
    """The kernel's names of machines are translated; those that are alike stay."""
    assert platform_of("x86_64") == "linux/amd64"
    assert platform_of("aarch64") == "linux/arm64"
    assert platform_of("ppc64le") == "linux/ppc64le"


def test_distributions_are_told_by_their_paths() -> None:
    """k3s, rke2, microk8s and kind have each their files and services; otherwise it is a plain containerd."""
    assert detect(lambda path: False) is PLAIN
    for one in DISTRIBUTIONS:
        assert detect(lambda path, marker=one.marker: path == marker) is one  # type: ignore[misc]
    k3s = detect(lambda path: path == "/var/lib/rancher/k3s/agent")
    assert "systemctl restart k3s.service" in instructions(Version(2, 1), k3s)[-2]
    assert any("config-v3.toml.d/cvmfs-snapshotter.toml" in line for line in instructions(Version(2, 1), k3s))
    assert any("config.toml.tmpl" in line for line in instructions(Version(1, 7), k3s))


def test_imports_are_advised_against_where_they_replace() -> None:
    """containerd 1.x lets an imported file replace CRI's whole table; 2.x merges it."""
    assert any("not into a file that `imports` names" in line for line in instructions(Version(1, 7), PLAIN))
    assert not any("not into a file" in line for line in instructions(Version(2, 1), PLAIN))


def test_a_file_that_is_no_toml_is_refused_by_name() -> None:
    """The error says which file and what in it."""
    with pytest.raises(InvalidArgument, match=r"'/etc/c.toml': is not TOML: Expected"):
        parse_config("[a", "/etc/c.toml")


@pytest.mark.parametrize("text", ["plugins = 3", "[plugins]\n'io.containerd.grpc.v1.cri' = []", "proxy_plugins = [1]"])
def test_tables_of_other_types_are_taken_for_absent(text: str) -> None:
    """containerd itself refuses such a file; reading it does not fail."""
    found = parse_config(text, "f")
    assert (found.snapshotter, found.proxies) == ("overlayfs", {})


def test_what_keeps_containerd_from_the_transfer_service_is_read() -> None:
    """Each of the settings with which 2.1 falls back to a local pull is named."""
    text = """version = 3
    [plugins."io.containerd.cri.v1.images"]
      use_local_image_pull = true
      max_concurrent_downloads = 8
      discard_unpacked_layers = true
      [plugins."io.containerd.cri.v1.images".registry.mirrors.x]
    """
    found = parse_config(text, "f").local_pull
    assert found == ("use_local_image_pull", "discard_unpacked_layers", "max_concurrent_downloads", "registry.mirrors")


def test_the_command_writes_only_toml_to_standard_output(tmp_path: Path) -> None:
    """Standard output is a file as it is; what to do with it is on standard error."""
    given = ["containerd", "--containerd-version", "2.1", "--address", "/run/a.sock", "--root", "/r"]
    done = CliRunner().invoke(config_command, [*given, "--config", str(tmp_path / "none")])
    assert done.exit_code == 0, done.output
    proxy = tomllib.loads(done.stdout)["proxy_plugins"][PLUGIN]
    assert (proxy["address"], proxy["exports"]["root"]) == ("/run/a.sock", "/r")
    assert "restart" in done.stderr
    assert "doctor" in done.stderr


def test_the_version_is_asked_of_the_program(tmp_path: Path) -> None:
    """Without --containerd-version the containerd that is there decides; one that fails is an error with its words."""
    engine = tmp_path / "containerd"
    engine.write_text("#!/bin/sh\necho containerd github.com/containerd/containerd 1.7.24 x\n")
    engine.chmod(0o755)
    given = ["containerd", "--containerd", str(engine), "--config", str(tmp_path / "none")]
    assert CliRunner().invoke(config_command, given).stdout.splitlines()[2] == "version = 2"
    engine.write_text("#!/bin/sh\necho broken >&2; exit 4\n")
    done = CliRunner().invoke(config_command, given)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "exit status 4: broken; give --containerd-version" in done.stderr
    engine.unlink()
    done = CliRunner().invoke(config_command, given)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "was found; give --containerd-version" in done.stderr


def test_a_program_that_is_not_there_is_an_error() -> None:
    """It says which command, and why it cannot be run."""
    with pytest.raises(FailedPrecondition, match="cannot be run"):
        program.said_by(["/no/such/program"])
