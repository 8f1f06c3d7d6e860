"""Each check of the doctor, with the right state and with each faulty one."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from snapshotter.config import Config
from snapshotter.doctor.diagnosis import CHECKS, diagnose
from snapshotter.doctor.mountinfo import Mount, mount_of, parse_mounts
from snapshotter.doctor.settings import parse_settings
from snapshotter.doctor.values import (
    EngineFacts,
    Facts,
    Finding,
    KernelFacts,
    RepositoryFacts,
    SocketFacts,
    StateFacts,
    UnitFacts,
)
from snapshotter.engineconfig.generator import PLUGIN, containerd_config
from snapshotter.engineconfig.reading import EngineConfig, Proxy, parse_config
from snapshotter.engineconfig.versions import Version

NODE = Config()
GIB = 1 << 30
CVMFS = Mount(
    "/cvmfs/unpacked.cern.ch", "fuse", "cvmfs2", frozenset({"ro", "nosuid", "nodev", "allow_other"}), shared=True
)
REPOSITORY = RepositoryFacts(
    "unpacked.cern.ch", "/cvmfs/unpacked.cern.ch", "", 16, CVMFS,
    {"CVMFS_CLAIM_OWNERSHIP": "no", "CVMFS_QUOTA_LIMIT": "20000"},
)  # fmt: skip
VERSIONS = ("1.6", "1.7", "2.0", "2.1", "2.4")


def engine(version: str, text: str | None = None) -> EngineFacts:
    """A containerd that was told what we print, or another text; its file is what it makes of it."""
    release = Version.parse(version)
    read = parse_config(text or containerd_config(release, NODE.address, NODE.root, "linux/amd64"), "f")
    return EngineFacts(program="/usr/bin/containerd", version=release, written=read, effective=read)


def right(version: str = "2.1") -> Facts:
    """A node where all is well."""
    return Facts(
        NODE, True, engine(version), SocketFacts("socket"),
        UnitFacts(True, True, True, frozenset({"containerd.service"}), frozenset({"containerd.service"})),
        StateFacts(NODE.root, "ext4", 50 * GIB, 100 * GIB, 10**6, 2 * 10**6, "", ""),
        KernelFacts("6.12", True, True), (REPOSITORY,), 5 * GIB,
    )  # fmt: skip


def bad(facts: Facts) -> list[Finding]:
    """What is not well."""
    return [finding for finding in diagnose(facts) if finding.severity != "ok"]


def configured(version: str, change: Callable[[EngineConfig], EngineConfig]) -> Facts:
    """The right node but for what containerd makes of its configuration."""
    facts = right(version)
    config = facts.engine.effective
    assert config is not None
    return replace(facts, engine=replace(facts.engine, effective=change(config)))


def proxied(**changed: object) -> Callable[[EngineConfig], EngineConfig]:
    """A change of our proxy plugin."""
    return lambda config: replace(config, proxies={PLUGIN: replace(config.proxies[PLUGIN], **changed)})  # type: ignore[arg-type]


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_nothing_is_wrong_with_what_we_print(version: str) -> None:
    """Each generation, told what `config containerd` prints, on a good node: no error and no warning."""
    assert bad(right(version)) == []
    assert len(diagnose(right(version))) >= len(CHECKS) - 1


def test_what_1_6_cannot_do_is_a_warning() -> None:
    """It has no exports, whatever it is told: kubelet's accounting is the one finding."""
    assert [(one.check, one.severity) for one in bad(right("1.6"))] == [("exports.root", "warning")]
    old = replace(right("1.7"), engine=replace(engine("1.7"), version=Version(1, 7, 15)))
    assert [(one.check, one.severity) for one in bad(old)] == [("exports.root", "warning")]


ENGINE_FAULTS: Mapping[str, tuple[str, Callable[[EngineConfig], EngineConfig], str, str, str]] = {
    "no plugin": ("2.1", lambda c: replace(c, proxies={}), "proxy plugin", "error", "there is no [proxy_plugins"),
    "type": ("2.1", proxied(type="content"), "proxy plugin", "error", "of type 'content'"),
    "address": ("1.7", proxied(address="/run/other.sock"), "proxy plugin", "error", "points to /run/other.sock"),
    "labels off 1.6": ("1.6", lambda c: replace(c, annotations_disabled=True), "labels", "error", "as by default"),
    "labels off 1.7": ("1.7", lambda c: replace(c, annotations_disabled=True), "labels", "error", "as by default"),
    "labels off 2.0": ("2.0", lambda c: replace(c, annotations_disabled=True), "labels", "error", "as by default"),
    "no export": ("2.1", proxied(exports={"root": NODE.root}), "labels", "error", "enable_remote_snapshot_annotations"),
    "local pull": ("2.1", lambda c: replace(c, local_pull=("use_local_image_pull",)), "labels", "error", "use_local"),
    "no unpack": ("2.1", lambda c: replace(c, unpack=()), "unpack_config", "error", "there is no [[plugins"),
    "no unpack for ctr": ("2.0", lambda c: replace(c, unpack=()), "unpack_config", "warning", "there is no [[plugins"),
    "other unpack": (
        "2.1", lambda c: replace(c, unpack=(("linux/amd64", "overlayfs"),)), "unpack_config", "error",
        "unpacks into overlayfs",
    ),
    "no root": (
        "2.1", proxied(exports={"enable_remote_snapshot_annotations": "true"}), "exports.root", "error", "has no root",
    ),
    "other root": (
        "2.1", proxied(exports={"enable_remote_snapshot_annotations": "true", "root": "/x"}), "exports.root", "error",
        "names /x",
    ),
    "rebase": (
        "2.1", proxied(capabilities=("only-remap-ids", "rebase")), "capabilities", "error", "advertises rebase",
    ),
    "rebase 1.7": ("1.7", proxied(capabilities=("rebase",)), "capabilities", "error", "advertises rebase"),
    "remap-ids": (
        "2.1", proxied(capabilities=("only-remap-ids", "remap-ids")), "capabilities", "error", "advertises remap-ids",
    ),
    "no only-remap-ids": ("2.0", proxied(capabilities=()), "capabilities", "warning", "does not advertise only-remap"),
    "overlayfs": ("1.7", lambda c: replace(c, snapshotter="overlayfs"), "snapshotter", "error", "not to cvmfs"),
    "misspelt": ("1.7", lambda c: replace(c, snapshotter="cvmfs"), "snapshotter", "error", "is no plugin"),
    "runtime misspelt": (
        "1.7", lambda c: replace(c, runtime_snapshotters={"kata": "nydus"}), "runtimes", "error", "runtime kata has",
    ),
    "runtime differs": (
        "1.7", lambda c: replace(c, runtime_snapshotters={"runc": "overlayfs"}), "runtimes", "warning", "runtime runc",
    ),
    "images of a runtime": (
        "2.1", lambda c: replace(c, runtime_snapshotters={"kata": "overlayfs"}), "runtimes", "warning",
        "its images are unpacked into cvmfs-snapshotter",
    ),
    "cri": ("1.7", lambda c: replace(c, disabled_plugins=("cri",)), "configuration", "warning", "disabled_plugins"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENGINE_FAULTS)
def test_faults_of_the_engines_configuration(name: str) -> None:
    """One fault, one finding with its name, its reason and its remedy; 1.6 keeps its own warning."""
    version, change, check, severity, what = ENGINE_FAULTS[name]
    found = [one for one in bad(configured(version, change)) if (version, one.check) != ("1.6", "exports.root")]
    if name == "no plugin":  # and then the images' snapshotter is none that exists
        found = [one for one in found if one.check != "snapshotter"]
    assert [(one.check, one.severity) for one in found] == [(check, severity)]
    assert what in found[0].what
    assert found[0].why
    assert found[0].fix


def test_a_local_pull_with_labels_is_well_on_2_1() -> None:
    """`disable_snapshot_annotations = false` makes 2.1 pull as 2.0 does, and then nothing of the transfer service is
    needed but for ctr."""
    facts = configured("2.1", lambda c: replace(c, annotations_disabled=False, unpack=()))
    assert [(one.check, one.severity) for one in bad(facts)] == [("unpack_config", "warning")]


def test_a_runtime_alone_may_use_us() -> None:
    """Images of one runtime class come to us, all others go to overlayfs."""
    facts = configured(
        "2.1", lambda c: replace(
            c, snapshotter="overlayfs", runtime_snapshotters={"cvmfs": PLUGIN}, platform_snapshotters={"cvmfs": PLUGIN}
        )
    )  # fmt: skip
    assert bad(facts) == []


def test_another_name_of_the_plugin_is_followed() -> None:
    """What counts is the socket: a plugin of another name that points to it is ours."""
    facts = configured(
        "2.1", lambda c: replace(
            c, proxies={"cvmfs": c.proxies[PLUGIN]}, snapshotter="cvmfs", unpack=(("linux/amd64", "cvmfs"),)
        )
    )  # fmt: skip
    assert bad(facts) == []


def test_a_version_2_file_without_runtimes_on_2_1_says_so() -> None:
    """The file names us, containerd took overlayfs without a word: the finding names both, and the way out."""
    written = engine("2.1", containerd_config(Version(1, 7), NODE.address, NODE.root, "linux/amd64")).written
    facts = configured("2.1", lambda c: EngineConfig(3, c.proxies, unpack=c.unpack))
    facts = replace(facts, engine=replace(facts.engine, written=written))
    (found,) = bad(facts)
    assert (found.check, found.severity) == ("snapshotter", "error")
    assert "the file names cvmfs-snapshotter, and containerd 2.1 silently takes overlayfs" in found.what
    assert "containerd config migrate" in found.fix


@pytest.mark.parametrize(
    ("version", "text", "what"),
    [
        ("2.1", "[plugins.x]\na = 1", "has no line `version = 3` at its top"),
        ("1.7", "[plugins.x]\na = 1", "has no line `version = 2` at its top"),
        ("1.6", "version = 3", "is of version 3, which containerd 1.6 does not know"),
    ],
)
def test_formats_that_are_ignored_without_an_error(version: str, text: str, what: str) -> None:
    """A file without its version, or newer than the engine: containerd goes on with its defaults."""
    facts = right(version)
    facts = replace(facts, engine=replace(facts.engine, written=parse_config(text, "f")))
    found = [one for one in bad(facts) if one.check == "configuration"]
    assert [(one.severity, what in one.what) for one in found] == [("error", True)]


def test_what_is_not_known_of_the_engine_is_a_warning() -> None:
    """No program and no file; a file alone; a file that containerd refuses is an error."""
    nothing = replace(right(), engine=EngineFacts())
    assert [(one.check, one.severity) for one in bad(nothing)] == [("containerd", "warning")]
    known = engine("1.7")
    alone = replace(right(), engine=replace(known, program="", effective=None))
    assert [(one.check, one.severity) for one in bad(alone)] == [("configuration", "warning")]
    refused = replace(right(), engine=replace(known, effective=None, problem="command 'x': exit status 1: no"))
    assert [(one.check, one.severity, one.what) for one in bad(refused)] == [
        ("configuration", "error", "command 'x': exit status 1: no")
    ]
    old = replace(right("1.6"), engine=replace(engine("1.6"), version=Version(1, 5, 9)))
    assert ("containerd", "warning") in [(one.check, one.severity) for one in bad(old)]


NODE_FAULTS: Mapping[str, tuple[dict[str, object], str, str, str]] = {
    "hidden": ({"socket": SocketFacts("hidden")}, "socket", "warning", "cannot be looked at"),
    "missing": ({"socket": SocketFacts("missing")}, "socket", "error", "does not exist"),
    "no socket": ({"socket": SocketFacts("other")}, "socket", "error", "is not a socket"),
    "dead": ({"socket": SocketFacts("socket", "Connection refused")}, "socket", "error", "Connection refused"),
    "open": ({"socket": SocketFacts("socket", "", 0o666)}, "socket", "error", "has the mode 0666"),
    "group": ({"socket": SocketFacts("socket", "", 0o660)}, "socket", "error", "has the mode 0660"),
    "owner": ({"socket": SocketFacts("socket", "", 0o600, 1000)}, "socket", "error", "belongs to user 1000"),
    "no unit": ({"unit": UnitFacts(True)}, "order of start", "warning", "has no cvmfs-snapshotter.service"),
    "disabled": (
        {"unit": UnitFacts(True, True, False, frozenset({"k3s.service"}), frozenset({"k3s.service"}))},
        "order of start", "error", "is not enabled",
    ),
    "late": (
        {"unit": UnitFacts(True, True, True, frozenset({"containerd.service"}), frozenset({"k3s.service"}))},
        "order of start", "error", "not ordered before k3s.service",
    ),
    "old kernel": ({"kernel": KernelFacts("5.4.0-81", True)}, "whiteouts", "warning", "lets only CAP_MKNOD"),
    "no overlay": ({"kernel": KernelFacts("5.14", False)}, "kernel", "error", "has no overlayfs"),
    "unloaded": ({"kernel": KernelFacts("5.14", None)}, "kernel", "warning", "is not loaded"),
    "selinux": (
        {"kernel": KernelFacts("5.14", True, True, False, "enforcing", {"container_use_cvmfs": False})},
        "selinux", "warning", "container_use_cvmfs is off",
    ),
    "selinux without a switch": (
        {"kernel": KernelFacts("5.14", True, True, False, "enforcing")}, "selinux", "warning", "enforcing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NODE_FAULTS)
def test_faults_of_the_node(name: str) -> None:
    """Socket, service, kernel and SELinux: one fault, one finding."""
    changed, check, severity, what = NODE_FAULTS[name]
    (found,) = bad(replace(right(), **changed))  # type: ignore[arg-type]
    assert (found.check, found.severity) == (check, severity)
    assert what in found.what
    assert found.fix


def test_the_right_states_of_a_node_that_look_odd() -> None:
    """A group that the configuration names, SELinux with its switch on, no systemd: nothing is wrong."""
    facts = replace(
        right(), config=Config(socket_group="wheel"), socket=SocketFacts("socket", "", 0o660), unit=UnitFacts(),
        kernel=KernelFacts("6", True, False, False, "enforcing", {"container_use_cvmfs": True}),
    )  # fmt: skip
    assert bad(facts) == []


@pytest.mark.parametrize(
    ("changed", "check", "severity"),
    [
        ({"whiteout_problem": "Operation not permitted"}, "whiteouts", "error"),
        ({"whiteout_problem": None}, "whiteouts", "warning"),
        ({"filesystem": "overlay"}, "state directory", "error"),
        ({"filesystem": "nfs4"}, "state directory", "error"),
        ({"filesystem": "fuse.sshfs"}, "state directory", "error"),
        ({"filesystem": "tmpfs"}, "state directory", "warning"),
        ({"filesystem": "reiserfs"}, "state directory", "warning"),
        ({"filesystem": ""}, "state directory", "warning"),
        ({"free": 100 << 20}, "space", "error"),
        ({"free": 4 * GIB}, "space", "warning"),
        ({"free_inodes": 10}, "space", "error"),
        ({"free_inodes": 20_000}, "space", "warning"),
    ],
)
def test_faults_of_the_state_directory(changed: dict[str, object], check: str, severity: str) -> None:
    """Its file system, its room, and the devices that must be made there."""
    facts = right()
    (found,) = bad(replace(facts, state=replace(facts.state, **changed)))  # type: ignore[arg-type]
    assert (found.check, found.severity) == (check, severity)


def test_a_file_system_without_inode_numbers_is_not_full() -> None:
    """btrfs says 0 of 0 inodes."""
    facts = right()
    assert bad(replace(facts, state=replace(facts.state, filesystem="btrfs", inodes=0, free_inodes=0))) == []


def test_user_attributes_matter_in_a_user_namespace_alone() -> None:
    """Elsewhere overlayfs does not write them."""
    facts = right()
    without = replace(facts, state=replace(facts.state, xattr_problem="Operation not supported"))
    assert bad(without) == []
    (found,) = bad(replace(without, kernel=replace(facts.kernel, user_namespace=True)))
    assert "user.* attributes cannot be written" in found.what


@pytest.mark.parametrize(
    ("changed", "check", "severity"),
    [
        ({"problem": "timeout: no answer within 5 s"}, "repository", "error"),
        ({"settings": {"CVMFS_CLAIM_OWNERSHIP": "yes"}}, "ownership", "error"),
        ({"settings": {"CVMFS_QUOTA_LIMIT": "20000"}}, "ownership", "error"),
        ({"settings": {}}, "ownership", "warning"),
        ({"settings": {**REPOSITORY.settings, "CVMFS_MAGIC_XATTRS_VISIBILITY": "always"}}, "attributes", "warning"),
        ({"listed": ("user.fqrn", "user.revision")}, "attributes", "warning"),
        ({"settings": {**REPOSITORY.settings, "CVMFS_QUOTA_LIMIT": "1000"}}, "cache", "warning"),
        ({"settings": {**REPOSITORY.settings, "CVMFS_QUOTA_LIMIT": "5000"}}, "cache", "warning"),
        ({"mount": replace(CVMFS, options=frozenset({"ro"}))}, "mount", "error"),
        ({"mount": replace(CVMFS, options=frozenset({"allow_other", "noexec"}))}, "mount", "error"),
        ({"mount": replace(CVMFS, shared=False)}, "propagation", "warning"),
    ],
)
def test_faults_of_a_repository_and_its_client(changed: dict[str, object], check: str, severity: str) -> None:
    """Health, ownership, attributes, cache, mount options and propagation."""
    (found,) = bad(replace(right(), repositories=(replace(REPOSITORY, **changed),)))  # type: ignore[arg-type]
    assert (found.check, found.severity) == (f"{check} unpacked.cern.ch", severity)


def test_the_right_states_of_a_repository_that_look_odd() -> None:
    """A plain directory has no client to look at; a cache without limit and a mount that follows another are fine."""
    plain = replace(REPOSITORY, revision=None, settings={}, mount=Mount("/", "ext4", "/dev/vda", frozenset({"rw"})))
    assert bad(replace(right(), repositories=(plain,))) == []
    follower = replace(
        REPOSITORY, settings={**REPOSITORY.settings, "CVMFS_QUOTA_LIMIT": "-1"},
        mount=replace(CVMFS, shared=False, follows=True),
    )  # fmt: skip
    assert bad(replace(right(), repositories=(follower,))) == []


def test_findings_come_with_the_worst_first() -> None:
    """Errors, then warnings, then what is well."""
    facts = replace(right(), socket=SocketFacts("missing"), unit=UnitFacts(True))
    assert [one.severity for one in diagnose(facts)][:3] == ["error", "warning", "ok"]


def test_every_finding_that_is_not_well_says_why_and_what_to_do() -> None:
    """Nothing at all is known, everything is wrong: each finding still has its reason and its remedy."""
    facts = replace(
        right(), engine=EngineFacts(version=Version(2, 1), written=EngineConfig(3, {"x": Proxy("", "")})),
        socket=SocketFacts(), state=StateFacts("/"), kernel=KernelFacts("4", False),
        repositories=(RepositoryFacts("r", "/r", "away"),),
    )  # fmt: skip
    for finding in bad(facts):
        assert finding.why, finding
        assert finding.fix, finding


def test_mounts_are_read_as_the_kernel_writes_them() -> None:
    """Escapes in paths, optional fields, and of two mounts on one point the later."""
    text = (
        "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "50 22 0:40 / /cvmfs/a\\040b ro,nosuid,nodev master:3 - fuse cvmfs2 ro,user_id=0,allow_other\n"
        "51 22 0:41 / /cvmfs rw - autofs /etc/auto.cvmfs rw,fd=5\n"
        "52 22 0:42 / /cvmfs rw shared:4 master:3 - tmpfs tmpfs rw\n"
    )
    mounts = parse_mounts(text)
    assert mount_of("/cvmfs/a b/c", mounts) == Mount(
        "/cvmfs/a b", "fuse", "cvmfs2", frozenset({"ro", "nosuid", "nodev", "user_id=0", "allow_other"}), False, True
    )
    for path, kind in (("/cvmfs/x", "tmpfs"), ("/cvmfsx", "ext4"), ("/", "ext4")):
        found = mount_of(path, mounts)
        assert found is not None
        assert found.type == kind


def test_settings_are_read_with_comments_and_quotes() -> None:
    """As cvmfs_config prints them, and as people write them; the last one wins."""
    text = (
        "CVMFS_QUOTA_LIMIT=4000    # from /etc/cvmfs/default.conf\n"
        "# CVMFS_CLAIM_OWNERSHIP=yes\n"
        "CVMFS_HTTP_PROXY='DIRECT'\n"
        ' export CVMFS_QUOTA_LIMIT="20000"\n'
    )
    assert parse_settings(text) == {"CVMFS_QUOTA_LIMIT": "20000", "CVMFS_HTTP_PROXY": "DIRECT"}
