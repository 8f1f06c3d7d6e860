"""Where each distribution keeps containerd, its configuration and its service."""

from collections.abc import Callable
from dataclasses import dataclass

from snapshotter.engineconfig.versions import Version

_ETC = "/etc/containerd/config.toml"


@dataclass(frozen=True, slots=True)
class Distribution:
    """`config` is the file that containerd reads, `marker` the path that tells the distribution, `units` are the
    services that run containerd, `snippet` is where settings go that shall last, by generation of containerd."""

    name: str
    marker: str
    config: str
    programs: tuple[str, ...]
    units: tuple[str, ...]
    restart: str
    snippet_1: str
    snippet_2: str

    def snippet(self, version: Version) -> str:
        return self.snippet_2 if version.major >= 2 else self.snippet_1


def _rancher(name: str, units: tuple[str, ...]) -> Distribution:
    base = f"/var/lib/rancher/{name}"
    folder = f"{base}/agent/etc/containerd"
    template = f"{folder}/config.toml.tmpl: a copy of {folder}/config.toml with these lines merged in"
    return Distribution(
        name, f"{base}/agent", f"{folder}/config.toml",
        (f"{base}/data/current/bin/containerd", f"{base}/bin/containerd"), units, f"systemctl restart {units[0]}",
        template, f"{folder}/config-v3.toml.d/cvmfs-snapshotter.toml, a file of its own; where {folder}/config.toml"
        f" does not name that directory in `imports`: {folder}/config-v3.toml.tmpl, a copy of it with them merged in",
    )  # fmt: skip


PLAIN = Distribution(
    "containerd", "", _ETC, ("containerd", "/usr/local/bin/containerd", "/usr/bin/containerd"), ("containerd.service",),
    "systemctl restart containerd", _ETC, f"{_ETC}, or a file of its own that `imports` there names",
)  # fmt: skip
_MICROK8S = "/var/snap/microk8s/current/args"
DISTRIBUTIONS = (
    _rancher("rke2", ("rke2-server.service", "rke2-agent.service")),
    _rancher("k3s", ("k3s.service", "k3s-agent.service")),
    Distribution(
        "microk8s", _MICROK8S, f"{_MICROK8S}/containerd.toml", ("/snap/microk8s/current/bin/containerd",),
        ("snap.microk8s.daemon-containerd.service",), "snap restart microk8s.daemon-containerd",
        f"{_MICROK8S}/containerd-template.toml", f"{_MICROK8S}/containerd-template.toml",
    ),
    Distribution(
        "kind", "/kind", _ETC, PLAIN.programs, PLAIN.units, PLAIN.restart, f"{_ETC} of each node, or"
        " containerdConfigPatches of the cluster's configuration", f"{_ETC} of each node, or"
        " containerdConfigPatches of the cluster's configuration",
    ),
)  # fmt: skip


def detect(exists: Callable[[str], bool]) -> Distribution:
    """The distribution whose paths are there; a plain containerd where none are."""
    return next((one for one in DISTRIBUTIONS if exists(one.marker)), PLAIN)
