"""Configuration: checked at the border, and the Go snapshotter's file is one."""

from pathlib import Path

import pytest

from cvmfsrepo.errors import InvalidArgument
from snapshotter import config as module
from snapshotter.config import Config, load, parse
from tests.snapshotter.daemon import refusal

FILE = Path("/etc/config.toml")


def test_defaults(tmp_path: Path) -> None:
    """A missing file and an empty one mean the same, and the repository is mounted where CVMFS mounts it."""
    assert load(tmp_path / "none.toml") == parse(b"", FILE) == Config()
    assert Config().served[0].root == Path("/cvmfs/unpacked.cern.ch")
    assert Config().root == "/var/lib/containerd-cvmfs-grpc"
    assert Config().address == "/run/containerd-cvmfs-grpc/containerd-cvmfs-grpc.sock"


def test_the_go_snapshotters_file() -> None:
    """Its keys keep their meaning: the mount point is the repository's own root."""
    config = parse(b'repository = "unpacked.example.org"\nabsolute-mountpoint = "/mnt/unpacked"\n', FILE)
    assert (config.served[0].name, config.served[0].root) == ("unpacked.example.org", Path("/mnt/unpacked"))
    config = parse(b'repository = "unpacked.example.org"', FILE)
    assert config.served[0].root == Path("/cvmfs/unpacked.example.org")


def test_every_key() -> None:
    """In the spelling with hyphens."""
    text = b"""
        root = "/a"
        address = "/b"
        log-level = "debug"
        repository = "r"
        absolute-mountpoint = "/c"
        deadline = 2
        mount-options = ["volatile"]
    """
    assert parse(text, FILE) == Config(
        root="/a", address="/b", log_level="debug", repository="r", absolute_mountpoint="/c",
        deadline=2.0, mount_options=("volatile",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('repositorys = "x"', ("`repositorys`", "config/config.toml")),
        ('repositories = "x"', ("`array`", "`$.repositories`", "config/config.toml")),
        ('repository = "a"\n[[repositories]]\nname = "b"', ("repository 'a'", "the first of [[repositories]]")),
        ('[[repositories]]\nname = "a/b"', ("repository 'a/b'",)),
        ('[[repositories]]\nname = "a"\n[[repositories]]\nname = "a"', ("repository 'a'", "stands twice")),
        ('[[repositories]]\nname = "a"\npath = "b"', ("path of a repository 'b'", "absolute")),
        ('[[policy]]\nmiss = "require"', ("images",)),
        ("[[policy]]\nimages = []", ("names no images",)),
        ('[[policy]]\nimages = ["a"]\nmiss = "refuse"', ("'refuse'",)),
        ('[[policy]]\nimages = ["a"]\nmiss = "wait"', ("policy 'a'", "wait")),
        ('[[policy]]\nimages = ["a"]\nwait = 5.0', ("policy 'a'", "wait")),
        ('[[policy]]\nimages = ["a"]\nallow-top = -1', ("policy 'a'", "negative")),
        ("probe-interval = 0.0", ("probe-interval",)),
        ("index-interval = 0", ("index-interval", "86400")),
        ("index-rate = 0", ("index-rate", "100000")),
        ('index = "yes"', ("`bool`", "`$.index`")),
        ('log_level = "info"', ("`log_level`",)),
        ("[debug]\nx = 1", ("`debug`",)),
        ("root = 1", ("`str`", "`$.root`")),
        ('deadline = "5"', ("`$.deadline`",)),
        ('mount-options = "a,b"', ("array", "`$.mount-options`")),
        ("mount-options = [1]", ("`$.mount-options[",)),
        ("root = ", ("Invalid value",)),
        ('log-level = "loud"', ("log-level 'loud'", "debug, info, warning, error")),
        ('repository = ""', ("repository ''",)),
        ('repository = "a/b"', ("repository 'a/b'",)),
        ('repository = "a\\u0000"', ("repository",)),
        ('root = "relative"', ("root 'relative'", "absolute")),
        ('address = "x.sock"', ("address 'x.sock'",)),
        ('absolute-mountpoint = "mnt"', ("absolute-mountpoint 'mnt'",)),
        ('root = "/a\\u0000"', ("root",)),
        ("deadline = 0", ("deadline 0", "between")),
        ("deadline = -1", ("deadline",)),
        ("deadline = nan", ("deadline nan",)),
        ("deadline = inf", ("deadline inf",)),
        ("deadline = 301", ("deadline 301",)),
    ],
)
def test_a_mistake_is_named(text: str, words: tuple[str, ...]) -> None:
    """The key and the value that are meant, and what is wrong with them."""
    with pytest.raises(InvalidArgument) as raised:
        parse(text.encode(), FILE)
    assert [word for word in words if word not in str(raised.value)] == [], raised.value


def test_a_file_that_is_no_text() -> None:
    """Bytes that are not UTF-8 are refused with the file's name."""
    with pytest.raises(InvalidArgument, match=r"/etc/config\.toml"):
        parse(b'root = "\xff"', FILE)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory in its place is not a missing file."""
    with pytest.raises(InvalidArgument, match="cannot be read"):
        load(tmp_path)


def test_values_are_checked_wherever_they_come_from() -> None:
    """The command line's too."""
    with pytest.raises(InvalidArgument, match="log-level"):
        module.check(Config(log_level="loud"))


def test_the_daemon_refuses_a_mistake_in_one_line(tmp_path: Path) -> None:
    """On standard error, with exit status 1, and no directory made."""
    said = refusal(tmp_path / "root", repozitory="x")
    assert said.startswith("exit status 1: error: configuration file '")
    assert "`repozitory`" in said
    assert not (tmp_path / "root").exists()
