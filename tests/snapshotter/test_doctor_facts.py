"""The doctor's facts are gathered from a node as it is, and what cannot be learnt is left out."""

import os
import socket
import time
from pathlib import Path

import pytest

from snapshotter.config import Config, RepositoryConfig
from snapshotter.doctor import facts
from snapshotter.doctor.facts import Asked
from snapshotter.engineconfig.versions import Version
from tests.cli.commands import command
from tests.mounting import needs_fuse, standin
from tests.snapshotter.daemon import Daemon


def engine_program(path: Path, version: str, dump: str = "version = 3") -> str:
    """A program that answers as containerd does."""
    path.write_text(
        f"#!/bin/sh\ncase $* in *dump) cat <<'E'\n{dump}\nE\n;; *) echo containerd x/containerd {version} y;; esac\n"
    )
    path.chmod(0o755)
    return str(path)


def test_version_file_and_effective_configuration_are_told_apart(tmp_path: Path) -> None:
    """The file says one thing, containerd makes another of it: both are kept."""
    file = tmp_path / "config.toml"
    file.write_text('version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "mine"\n')
    found = facts.engine_facts(Asked(engine_program(tmp_path / "c", "2.1.9"), str(file)), tmp_path)
    assert found.version == Version(2, 1, 9)
    assert found.written is not None
    assert found.effective is not None
    assert (found.written.version, found.written.snapshotter) == (2, "mine")
    assert (found.effective.version, found.effective.snapshotter) == (3, "overlayfs")
    assert found.problem == ""


def test_without_a_program_the_file_alone_is_read(tmp_path: Path) -> None:
    """With the version that was given."""
    file = tmp_path / "config.toml"
    file.write_text("version = 3\n")
    found = facts.engine_facts(Asked("/no/containerd", str(file), Version(2, 1)), tmp_path)
    assert (found.program, found.version, found.effective) == ("", Version(2, 1), None)
    assert found.config == found.written
    assert found.problem == ""


def test_a_file_that_is_no_toml_does_not_hide_the_version(tmp_path: Path) -> None:
    """Each thing is asked for by itself; what fails is said, with or without a program."""
    file = tmp_path / "config.toml"
    file.write_text("version = [")
    found = facts.engine_facts(Asked(engine_program(tmp_path / "c", "1.7.24"), str(file)), tmp_path)
    assert (found.version, found.written) == (Version(1, 7, 24), None)
    assert "is not TOML" in found.problem
    assert "is not TOML" in facts.engine_facts(Asked("/no/containerd", str(file)), tmp_path).problem


def test_a_containerd_that_refuses_its_file_is_quoted(tmp_path: Path) -> None:
    """Its last line on standard error is the problem."""
    program = tmp_path / "c"
    program.write_text("#!/bin/sh\ncase $* in *dump) echo bad line 3 >&2; exit 1;; *) echo containerd 1.7.24;; esac\n")
    program.chmod(0o755)
    found = facts.engine_facts(Asked(str(program), str(tmp_path / "none")), tmp_path)
    assert (found.version, found.written, found.effective) == (Version(1, 7, 24), None, None)
    assert "exit status 1: bad line 3" in found.problem


def test_a_distribution_is_found_by_its_paths(tmp_path: Path) -> None:
    """k3s has its own file."""
    (tmp_path / "var/lib/rancher/k3s/agent").mkdir(parents=True)
    found = facts.engine_facts(Asked("/no/containerd"), tmp_path)
    assert found.distribution.name == "k3s"
    assert found.config_path == "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"


def test_sockets_are_told_apart(tmp_path: Path) -> None:
    """Missing, no socket, dead, and one with a snapshotter behind it."""
    address = tmp_path / "s"
    assert facts.socket_facts(str(address)).kind == "missing"
    address.write_text("")
    assert facts.socket_facts(str(address)).kind == "other"
    address.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(address))
    found = facts.socket_facts(str(address))
    assert (found.kind, found.answer) == ("socket", "Connection refused")
    with Daemon(tmp_path / "root", repository="r", absolute_mountpoint=tmp_path) as daemon:
        found = facts.socket_facts(str(daemon.address))
        assert (found.kind, found.answer, found.mode) == ("socket", "", 0o600)


def test_the_root_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    """0:0 devices can be made where the tests run; nothing stays. A root that is missing is not tried nor made."""
    found = facts.state_facts(tmp_path)
    assert found.whiteout_problem == ""
    assert found.capacity >= found.free > 0
    assert found.filesystem
    assert list(tmp_path.iterdir()) == []
    missing = facts.state_facts(tmp_path / "a/b")
    assert (missing.probed, missing.whiteout_problem) == (str(tmp_path), None)
    assert list(tmp_path.iterdir()) == []


def test_kernel_and_selinux_are_read_from_their_files(tmp_path: Path) -> None:
    """overlayfs among the file systems, SELinux enforcing with one switch on."""
    for path, text in {
        "proc/filesystems": "nodev\tproc\n\text4\nnodev\toverlay\n",
        "proc/self/uid_map": "         0       1000          1\n",
        "sys/module/overlay/parameters/index": "N\n",
        "sys/fs/selinux/enforce": "1",
        "sys/fs/selinux/booleans/container_use_cvmfs": "1 1",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = facts.kernel_facts(tmp_path)
    assert (found.overlay, found.index_parameter, found.user_namespace) == (True, True, True)
    assert (found.selinux, found.booleans) == ("enforcing", {"container_use_cvmfs": True})
    (tmp_path / "proc/filesystems").write_text("\text4\n")
    assert facts.kernel_facts(tmp_path).overlay is False


def test_settings_of_the_client_are_merged_in_its_order(tmp_path: Path) -> None:
    """default, domain, repository: the later file wins."""
    for path, text in {
        "default.conf": "CVMFS_CLAIM_OWNERSHIP=yes\nCVMFS_QUOTA_LIMIT=4000\n",
        "default.local": "CVMFS_QUOTA_LIMIT=20000\n",
        "domain.d/example.org.conf": "CVMFS_KEYS_DIR=/k\n",
        "config.d/unpacked.example.org.local": "CVMFS_CLAIM_OWNERSHIP=no\n",
    }.items():
        (tmp_path / "etc/cvmfs" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc/cvmfs" / path).write_text(text)
    assert facts.client_settings("unpacked.example.org", tmp_path) == {
        "CVMFS_CLAIM_OWNERSHIP": "no", "CVMFS_QUOTA_LIMIT": "20000", "CVMFS_KEYS_DIR": "/k",
    }  # fmt: skip


def test_a_repository_is_looked_at(tmp_path: Path) -> None:
    """One that is there has no problem, one that is not says what is missing."""
    (tmp_path / "there/.layers").mkdir(parents=True)
    found = facts.repository_facts(RepositoryConfig("r", str(tmp_path / "there")), 5)
    assert (found.problem, found.revision, found.listed, found.is_cvmfs) == ("", None, (), False)
    found = facts.repository_facts(RepositoryConfig("r", str(tmp_path / "gone")), 5)
    assert found.problem.startswith("unmounted: ")


@pytest.mark.fuse
def test_a_mount_of_a_client_is_known_and_a_hanging_one_waited_for_until_the_deadline(tmp_path: Path) -> None:
    """Revision and options of a CVMFS mount; frozen, it is a problem after the deadline; killed, at once."""
    needs_fuse()
    (tmp_path / "source/.layers").mkdir(parents=True)
    one = RepositoryConfig("r.example.org", str(tmp_path / "mount"))
    with standin(tmp_path / "source", tmp_path / "mount") as client:
        found = facts.repository_facts(one, 5)
        assert (found.problem, found.revision, found.is_cvmfs, found.listed) == ("", 1, True, ())
        assert found.mount is not None
        assert {"ro", "nosuid", "allow_other"} <= found.mount.options
        client.freeze()
        began = time.monotonic()
        found = facts.repository_facts(one, 0.3)
        assert time.monotonic() - began < 5
        assert "no answer within 0.3 s" in found.problem
        assert found.is_cvmfs
        client.thaw()
        client.kill()
        assert facts.repository_facts(one, 5).problem.startswith("unmounted: ")


def test_without_systemd_nothing_is_said_of_it(tmp_path: Path) -> None:
    """A container or another init."""
    engine = facts.engine_facts(Asked("/no/containerd"), tmp_path)
    assert not facts.unit_facts(engine.distribution, tmp_path).known


def test_systemd_is_asked_for_both_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours with what it comes before, and those of the engine that are there."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    answer = (
        "Id=cvmfs-snapshotter.service\nBefore=containerd.service shutdown.target\nLoadState=loaded\n"
        "UnitFileState=enabled\n\nId=containerd.service\nBefore=\nLoadState=loaded\nUnitFileState=enabled\n"
    )
    monkeypatch.setattr("snapshotter.engineconfig.program.said_by", lambda command: answer)
    found = facts.unit_facts(facts.engine_facts(Asked("/no/containerd"), tmp_path).distribution, tmp_path)
    assert (found.known, found.loaded, found.enabled) == (True, True, True)
    assert found.engine_units == {"containerd.service"}
    assert "containerd.service" in found.before


def test_gathering_takes_all_of_it(tmp_path: Path) -> None:
    """Every kind of fact, on a node with nothing: no exception, whatever is missing."""
    config = Config(root=str(tmp_path / "root"), address=str(tmp_path / "s"), absolute_mountpoint=str(tmp_path / "r"))
    found = facts.gather(config, Asked("/no/containerd", str(tmp_path / "none")), tmp_path)
    assert found.config is config
    assert found.is_root == (os.geteuid() == 0)
    assert [one.name for one in found.repositories] == ["unpacked.cern.ch"]
    assert found.largest_image is None


@pytest.mark.slow
def test_the_command_answers_with_its_exit_status(tmp_path: Path) -> None:
    """3 and a JSON list of findings; with --quiet without what is well; a table with remedies for people."""
    given = [
        "--containerd", "/no/containerd", "--containerd-config", str(tmp_path / "none"), "--config",
        str(tmp_path / "c.toml"), "--root", str(tmp_path / "root"), "--address", str(tmp_path / "s"),
    ]  # fmt: skip
    done = command("doctor", *given, "--json")
    assert done.status == 3, done.err
    findings = done.json
    assert {"check", "severity", "what", "why", "fix"} == set(findings[0])
    assert "ok" in {finding["severity"] for finding in findings}
    quiet = command("doctor", *given, "--json", "--quiet").json
    assert "ok" not in {finding["severity"] for finding in quiet}
    people = command("doctor", *given).out
    assert "error, socket: " in people
    assert "   fix:  " in people
    assert " errors, " in people
