"""Configuration as values: TOML, checked at the border, with every unknown key refused by name.

The keys `repository` and `absolute-mountpoint` are those of the Go snapshotter, whose file is read as it is.
"""

from pathlib import Path

import msgspec

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.web import parse_address
from snapshotter.log import LEVELS
from snapshotter.policy import Policy

DEFAULT_PATH = Path("/etc/containerd-cvmfs-grpc/config.toml")
DEFAULT_REPOSITORY = "unpacked.cern.ch"


class RepositoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """One repository: its name, and its own root directory, /cvmfs/<name> where `path` is empty."""

    name: str
    path: str = ""

    @property
    def root(self) -> Path:
        return Path(self.path or f"/cvmfs/{self.name}")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """All settings; each default is what a node of a laboratory wants. `deadline` and intervals are in
    seconds, `index_rate` is in visits a second."""

    root: str = "/var/lib/containerd-cvmfs-grpc"
    address: str = "/run/containerd-cvmfs-grpc/containerd-cvmfs-grpc.sock"
    admin_address: str = ""
    socket_group: str = ""
    log_level: str = "info"
    repository: str | None = None
    absolute_mountpoint: str = ""
    repositories: tuple[RepositoryConfig, ...] = ()
    deadline: float = 5.0
    probe_interval: float = 5.0
    backup_interval: float = 600.0
    index: bool = True
    index_interval: float = 300.0
    index_rate: float = 200.0
    policy: tuple[Policy, ...] = ()
    mount_options: tuple[str, ...] = ()
    metrics_address: str = ""

    @property
    def served(self) -> tuple[RepositoryConfig, ...]:
        """The repositories in order of priority, however they are written."""
        return self.repositories or (RepositoryConfig(self.repository or DEFAULT_REPOSITORY, self.absolute_mountpoint),)


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
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # the last two are tomllib's
        remedy = "every key and its default is explained in config/config.toml of the project"
        raise InvalidArgument("configuration file", str(path), str(error), remedy) from None
    check(config)
    return config


def check(config: Config) -> None:
    """Refuses values that can never work."""
    if config.log_level not in LEVELS:
        raise InvalidArgument("log-level", config.log_level, "is not a level", f"take one of {', '.join(LEVELS)}")
    if config.repositories and (config.repository is not None or config.absolute_mountpoint):
        problem = "stands beside [[repositories]]"
        raise InvalidArgument("repository", config.repository, problem, "write it as the first of [[repositories]]")
    for name, seconds in (("deadline", config.deadline), ("probe-interval", config.probe_interval)):
        if not 0 < seconds <= 300:
            raise InvalidArgument(name, seconds, "is not between 0 and 300 seconds")
    if not 0 < config.backup_interval <= 86400:
        raise InvalidArgument("backup-interval", config.backup_interval, "is not between 0 and 86400 seconds")
    if not 0 < config.index_interval <= 86400:
        raise InvalidArgument("index-interval", config.index_interval, "is not between 0 and 86400 seconds")
    if not 0 < config.index_rate <= 100_000:
        raise InvalidArgument("index-rate", config.index_rate, "is not between 0 and 100000 a second")
    _check_repositories(config)
    if config.metrics_address:
        parse_address(config.metrics_address)
    _check_absolute("root", config.root)
    _check_absolute("address", config.address)
    _check_absolute("admin-address", config.admin_address)
    for policy in config.policy:
        _check_policy(policy)


def _check_repositories(config: Config) -> None:
    names = [config.repository] if config.repository is not None else [r.name for r in config.repositories]
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidArgument("repository", name, "is not a repository's name")
        if names.count(name) > 1:
            raise InvalidArgument("repository", name, "stands twice in [[repositories]]", "give each its own name")
    _check_absolute("absolute-mountpoint", config.absolute_mountpoint)
    for repository in config.repositories:
        _check_absolute("path of a repository", repository.path)


def _check_absolute(name: str, path: str) -> None:
    if path and (not path.startswith("/") or "\0" in path):
        raise InvalidArgument(name, path, "is not an absolute path")


def _check_policy(policy: Policy) -> None:
    what = ", ".join(policy.images)
    if not policy.images:
        raise InvalidArgument("policy", what, "names no images", 'give patterns, such as images = ["*/atlas/*"]')
    if (policy.miss == "wait") != (policy.wait > 0) or policy.wait > 3600:
        raise InvalidArgument("policy", what, 'miss = "wait" and wait go together', "let wait be 1 to 3600 seconds")
    if policy.allow_top < 0:
        raise InvalidArgument("policy", what, f"allow-top = {policy.allow_top} is negative")
