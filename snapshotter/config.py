"""Configuration as values: TOML, checked at the border, with every unknown key refused by name.

The keys `repository` and `absolute-mountpoint` are those of the Go snapshotter, whose file is read as it is.
"""

from pathlib import Path

import msgspec

from cvmfsrepo.errors import InvalidArgument
from snapshotter.log import LEVELS

DEFAULT_PATH = Path("/etc/containerd-cvmfs-grpc/config.toml")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """All settings; each default is what a node of a laboratory wants. `deadline` is in seconds."""

    root: str = "/var/lib/containerd-cvmfs-grpc"
    address: str = "/run/containerd-cvmfs-grpc/containerd-cvmfs-grpc.sock"
    log_level: str = "info"
    repository: str = "unpacked.cern.ch"
    absolute_mountpoint: str = ""
    deadline: float = 5.0
    mount_options: tuple[str, ...] = ()

    @property
    def repository_root(self) -> Path:
        """The repository's own root directory."""
        return Path(self.absolute_mountpoint or f"/cvmfs/{self.repository}")


def load(path: Path) -> Config:
    """The configuration of a file; defaults where there is none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise InvalidArgument("configuration file", str(path), f"cannot be read ({error.strerror})") from None
    return parse(text, path)


def parse(text: bytes, path: Path) -> Config:
    """A configuration, checked; `path` names it in errors."""
    try:
        config = msgspec.toml.decode(text, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        remedy = "every key and its default is explained in config/config.toml of the project"
        raise InvalidArgument("configuration file", str(path), str(error), remedy) from None
    check(config)
    return config


def check(config: Config) -> None:
    """Refuses values that can never work."""
    if config.log_level not in LEVELS:
        raise InvalidArgument("log-level", config.log_level, "is not a level", f"take one of {', '.join(LEVELS)}")
    if config.repository in ("", ".", "..") or "/" in config.repository or "\0" in config.repository:
        raise InvalidArgument("repository", config.repository, "is not a repository's name")
    if not 0 < config.deadline <= 300:
        raise InvalidArgument("deadline", config.deadline, "is not between 0 and 300 seconds")
    for name, value in (
        ("root", config.root),
        ("address", config.address),
        ("absolute-mountpoint", config.absolute_mountpoint),
    ):
        if value and (not value.startswith("/") or "\0" in value):
            raise InvalidArgument(name, value, "is not an absolute path")
