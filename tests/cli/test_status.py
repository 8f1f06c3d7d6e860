"""`status`, as a person and as a program see it."""

import re
import signal
from pathlib import Path

import pytest

from tests.cli.commands import Told, command, told
from tests.snapshotter.layers import NAME
from tests.snapshotter.nodes import eventually


def test_people_see_it(node: Told) -> None:
    """The daemon, each repository, the snapshots, and what was served and missed."""
    said = node("status")
    assert (said.status, said.err) == (0, "")
    assert re.search(rf"^daemon +running: process {node.daemon.pid}, up \d+ s$", said.out, re.MULTILINE)
    assert said.cells(NAME)[:2] == [NAME, "healthy"]
    assert said.cells("from a repository") == ["from a repository", "2"]
    assert said.cells("active") == ["active", "2"]
    assert said.cells("made after a miss") == ["made after a miss", "1"]
    assert said.cells("served") == ["served", f"2 from {NAME}"]
    assert said.cells("missed") == ["missed", "1 absent"]
    assert said.cells("not downloaded") == ["not downloaded", "2.0 KB"]
    assert not [line for line in said.out.splitlines() if line != line.rstrip()]


def test_programs_see_it(node: Told) -> None:
    """One document with stable keys; hits, misses and the bytes of the layers that were not downloaded."""
    found = node("status", "--json").json
    assert found["running"]
    assert found["pid"] == node.daemon.pid
    assert found["root"] == str(node.daemon.root)
    assert found["snapshots"] == {"active": 2, "views": 0, "remote": 2, "local": 0, "missed": 1}
    assert found["served"] == {
        "hits": {NAME: 2}, "misses": {"absent": 1}, "bytes_not_downloaded": 1000 + 1001, "unknown": 0,
    }  # fmt: skip
    (repository,) = found["repositories"]
    assert (repository["name"], repository["state"], repository["detail"]) == (NAME, "healthy", "")
    assert (repository["index"]["images"], repository["index"]["layers"]) == (1, 2)
    assert found["disk"]["active"] is None
    assert 0 < found["disk"]["free"] <= found["disk"]["capacity"]
    assert found["started"] > 10**18


def test_what_containers_wrote_is_measured_on_demand(node: Told) -> None:
    """It takes a walk over their directories, so it is an option."""
    written = next(node.daemon.root.glob("snapshots/*/work")).with_name("fs") / "written"
    written.write_bytes(bytes(5000))
    try:
        assert node("status", "--measure", "--json").json["disk"]["active"] >= 5000
    finally:
        written.unlink()


@pytest.mark.slow
def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    """Exit status 1, and what the disk and a look at the repository tell."""
    with told(tmp_path) as node:
        node.daemon.stop()
        said, found = node("status"), node("status", "--json")
    assert (said.status, found.status) == (1, 1)
    assert said.cells("daemon") == ["daemon", "NOT RUNNING"]
    assert "no daemon answers at" in said.cells("problem")[1]
    assert said.cells(NAME)[:2] == [NAME, "answers"]
    assert found.json["snapshots"]["remote"] == 2
    assert found.json["repositories"][0]["index"]["images"] == 1
    assert found.json["served"] is None
    assert not found.json["running"]


def test_on_a_node_that_never_ran_it_says_so(tmp_path: Path) -> None:
    """No directory is made by asking."""
    root = tmp_path / "root"
    said = command("status", "--root", str(root), "--address", str(tmp_path / "s.sock"))
    assert said.status == 1
    assert "no daemon ever ran on it" in said.out
    assert not root.exists()


@pytest.mark.slow
def test_a_daemon_on_another_socket_is_noticed(tmp_path: Path) -> None:
    """The database of a running daemon is not opened behind its back: the command says where to ask instead."""
    with told(tmp_path) as node:
        other = ("--root", str(node.daemon.root), "--address", str(tmp_path / "other.sock"))
        listing, status = command("snapshots", *other), command("status", *other)
        pid = node.daemon.pid
    assert listing.status == 1
    assert f"is in use by process {pid}, which does not answer at {tmp_path}/admin.sock" in listing.err
    assert status.status == 1
    assert f"is in use by process {pid}" in status.out


@pytest.mark.slow
def test_a_daemon_that_is_stopped_in_its_tracks_is_no_answer(node: Told) -> None:
    """The command ends after ten seconds, and says so."""
    node.daemon.signal(signal.SIGSTOP)
    try:
        said = node("status", "--json")
    finally:
        node.daemon.signal(signal.SIGCONT)
    assert (said.status, said.out) == (1, "")
    assert "did not answer within 10 s" in said.err


@pytest.mark.slow
def test_a_repository_that_is_away_is_shown(tmp_path: Path) -> None:
    """With what is wrong; the daemon runs, so the command succeeds."""
    with told(tmp_path, probe_interval=0.1) as node:
        node.repository.root.rename(tmp_path / "gone")
        eventually(lambda: node("status", "--json").json["repositories"][0]["state"] == "degraded", 30)
        said = node("status")
    assert said.status == 0
    assert "No such file or directory" in said.out
