"""The text of containerd's configuration, for each of its generations.

1.6 and 1.7 name layers to a snapshotter only if annotations are not disabled; 2.0 too, for pods, while its `ctr` pulls
through the transfer service; from 2.1 on images of pods come through the transfer service as well, which needs a table
of its own and asks the plugin's exports. The tests load it into 1.6, 1.7 and 2.1; 2.0's text is loaded into 2.1.
"""

import json

from cvmfsrepo.errors import InvalidArgument
from snapshotter.engineconfig.distributions import Distribution
from snapshotter.engineconfig.versions import OLDEST, Version

PLUGIN = "cvmfs-snapshotter"

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7"}

_HEAD = """\
# Made by: cvmfs-snapshotter config containerd --containerd-version {series}
# {place}
version = {format}

[proxy_plugins.{plugin}]
  type = "snapshot"
  address = {address}
{capabilities}  [proxy_plugins.{plugin}.exports]
    # Where kubelet finds the disk that images take{root_since}.
    root = {root}
"""

_CAPABILITIES = """\
  # Layers of a repository cannot be shown with other owners: with this line pods in user namespaces (hostUsers: false)
  # are refused at once. Without it containerd would copy each file of an image to give it another owner.
  capabilities = ["only-remap-ids"]
"""

_EXPORT = """\
    # Without this line {whose} names no layer to the snapshotter, and everything is downloaded.
    enable_remote_snapshot_annotations = "true"
"""

_CRI_1 = """
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{plugin}"
"""

_CRI_2 = """
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{plugin}"
"""

_ANNOTATIONS = """\
  # Without this line no layer is named to the snapshotter, and everything is downloaded.
  disable_snapshot_annotations = false
"""

_TRANSFER = """
# {why}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = {platform}
  snapshotter = "{plugin}"
"""

_PLACE_1 = (
    "For containerd 1.6 and 1.7. Merge it into config.toml: a file in `imports` would replace all of CRI's settings."
)
_PLACE_20 = "For containerd 2.0. Merge it into config.toml, or name it in `imports` there."
_PLACE_2 = "For containerd 2.1 and newer. Merge it into config.toml, or name it in `imports` there."


def containerd_config(version: Version, address: str, root: str, platform: str) -> str:
    """TOML that makes a containerd of that version take every image to the snapshotter at the socket `address`, whose
    state is in `root`; a whole file, which names its own format. `platform` as in `linux/amd64`."""
    if not version.at_least(OLDEST.major, OLDEST.minor):
        remedy = f"upgrade containerd to {OLDEST.major}.{OLDEST.minor} or newer"
        raise InvalidArgument("containerd version", str(version), "is too old", remedy)
    text, values = _form(version)
    given = {"plugin": PLUGIN, "address": _quoted(address), "root": _quoted(root), "platform": _quoted(platform)}
    return text.format(**values, **given)


def _form(version: Version) -> tuple[str, dict[str, str]]:
    """The text for a generation, and what is its own in it."""
    if version.major < 2:
        return _HEAD + _CRI_1 + _ANNOTATIONS, {
            "series": "1.7", "place": _PLACE_1, "format": "2", "root_since": " (since 1.7.16)",
            "capabilities": "",
        }  # fmt: skip
    values = {"format": "3", "root_since": "", "capabilities": _CAPABILITIES}
    if not version.at_least(2, 1):
        why = "Without this table ctr does not unpack what it pulls."
        values |= {"series": "2.0", "place": _PLACE_20, "whose": "ctr", "why": why}
        return _HEAD + _EXPORT + _CRI_2 + _ANNOTATIONS + _TRANSFER, values
    why = 'Without this table a pull fails with "no unpack platforms defined".'
    values |= {"series": "2.1", "place": _PLACE_2, "whose": "containerd", "why": why}
    return _HEAD + _EXPORT + _CRI_2 + _TRANSFER, values


def instructions(version: Version, distribution: Distribution) -> list[str]:
    """What to do with that text on such a node; a line each."""
    lines = [f"for containerd {version}" + (f" of {distribution.name}" if distribution.marker else "")]
    lines.append(f"put it into: {distribution.snippet(version)}")
    if version.major < 2:
        lines.append("a table that is there already must not be written twice: add the lines to it")
        lines.append("not into a file that `imports` names: in 1.x that replaces all other settings of CRI's table")
    else:
        lines.append("the file that it is merged into has to say `version = 3`; 2.x ignores tables of a file without")
    lines.append(f"then start {PLUGIN}, and: {distribution.restart}")
    lines.append(f"then look: {PLUGIN} doctor")
    return lines


def platform_of(machine: str) -> str:
    """containerd's name of the platform, of the kernel's name of the machine."""
    return f"linux/{_MACHINES.get(machine, machine)}"


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are among TOML's."""
    return json.dumps(text)
