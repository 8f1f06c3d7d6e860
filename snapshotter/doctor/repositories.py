"""Checks of the repositories and of the CVMFS client that shows them."""

from collections.abc import Iterator

from snapshotter.doctor.values import Facts, Finding, RepositoryFacts, fault, fine, warning

_MIB = 1 << 20
_SMALL_CACHE = 4000
"""MB: what the client itself advises at least."""

_LOCAL = "/etc/cvmfs/default.local"
_RELOAD = "then: cvmfs_config reload, or mount it again"
_YES = frozenset({"yes", "on", "1", "true"})


def health(facts: Facts) -> Iterator[Finding]:
    """Each repository answers, and is an unpacked one."""
    for one in facts.repositories:
        if one.problem:
            fix = f"cvmfs_config probe {one.name}; ls {one.root}; is the configured path its own root directory?"
            yield fault(f"repository {one.name}", one.problem, "none of its layers is served", fix)
        else:
            of = "not a CVMFS mount" if one.revision is None else f"revision {one.revision}"
            yield fine(f"repository {one.name}", f"{one.root} answers; {of}")


def ownership(facts: Facts) -> Iterator[Finding]:
    """Files have the owners that their image gave them."""
    for one in _mounted(facts):
        name, value = f"ownership {one.name}", one.settings.get("CVMFS_CLAIM_OWNERSHIP", "")
        if not one.settings:
            why = "by default every file belongs to the client's user, and su and sshd in images do not work"
            fix = f"see that CVMFS_CLAIM_OWNERSHIP=no stands in {_LOCAL}"
            yield warning(name, "the client's settings are not known", why, fix)
        elif value.lower() in _YES or not value:
            what = f"CVMFS_CLAIM_OWNERSHIP is {value or 'yes, as by default'}"
            why = "every file of every image belongs to the client's user: su, sshd and the like run with a wrong owner"
            fix = f"write CVMFS_CLAIM_OWNERSHIP=no into /etc/cvmfs/config.d/{one.name}.local; {_RELOAD}"
            yield fault(name, what, why, fix)
        else:
            yield fine(name, f"CVMFS_CLAIM_OWNERSHIP is {value}")


def attributes(facts: Facts) -> Iterator[Finding]:
    """The client's own attributes stay out of images."""
    for one in _mounted(facts):
        name, value = f"attributes {one.name}", one.settings.get("CVMFS_MAGIC_XATTRS_VISIBILITY", "")
        magic = [attribute for attribute in one.listed if attribute.startswith("user.")]
        if value.lower() == "always" or magic:
            shown = f"the client lists its attributes everywhere ({', '.join(magic[:3])})" if magic else ""
            what = shown or f"CVMFS_MAGIC_XATTRS_VISIBILITY is {value}"
            why = "what a container changes gets dozens of user.* attributes of the client, and layers made from it too"
            fix = f"write CVMFS_MAGIC_XATTRS_VISIBILITY=rootonly into {_LOCAL}; {_RELOAD}"
            yield warning(name, what, why, fix)
        else:
            yield fine(name, "the client's own attributes are not listed in layers")


def mount_options(facts: Facts) -> Iterator[Finding]:
    """Every user of every container may read and run what is there."""
    for one in _mounted(facts):
        assert one.mount is not None
        options, name = one.mount.options, f"mount {one.name}"
        bad = False
        if "allow_other" not in options:
            bad = True
            why, fix = "only the user who mounted it can read it: containers cannot", "mount it with allow_other"
            yield fault(name, f"{one.mount.point} is mounted without allow_other", why, fix)
        if "noexec" in options:
            bad = True
            fix = "mount it without noexec"
            yield fault(name, f"{one.mount.point} is mounted noexec", "no program of an image can be run", fix)
        if not bad:
            nosuid = "; nosuid does not matter, overlayfs has its own" if "nosuid" in options else ""
            yield fine(name, f"{one.mount.point}{nosuid}")


def propagation(facts: Facts) -> Iterator[Finding]:
    """A mount that comes later is seen by services and pods with mounts of their own."""
    for one in facts.repositories:
        if one.mount is None or not (one.is_cvmfs or one.mount.type == "autofs"):
            continue
        if one.mount.shared or one.mount.follows:
            yield fine(f"propagation {one.name}", f"{one.mount.point} is {'shared' if one.mount.shared else 'a slave'}")
        else:
            why = "a daemon in a pod or a confined service goes on without it when it is mounted again"
            fix = f"mount --make-rshared {one.mount.point}; in a pod: mountPropagation: HostToContainer"
            yield warning(f"propagation {one.name}", f"the mount {one.mount.point} is private", why, fix)


def cache(facts: Facts) -> Iterator[Finding]:
    """The client's cache holds at least what one image needs."""
    for one in _mounted(facts):
        name, value = f"cache {one.name}", one.settings.get("CVMFS_QUOTA_LIMIT", "")
        if not value.lstrip("-").isdigit():
            continue
        quota, largest = int(value), facts.largest_image or 0
        fix = f"raise CVMFS_QUOTA_LIMIT (MB) in {_LOCAL}, if the disk of CVMFS_CACHE_BASE allows; {_RELOAD}"
        why = "files are evicted while containers need them, and fetched again and again"
        if quota < 0:
            yield fine(name, "without a limit")
        elif largest > quota * _MIB:
            what = f"{quota} MB for all repositories; the largest image is {largest // _MIB} MB compressed"
            yield warning(name, what, why, fix)
        elif quota < _SMALL_CACHE:
            yield warning(name, f"{quota} MB for all repositories", why, fix)
        else:
            yield fine(name, f"{quota} MB")


def _mounted(facts: Facts) -> Iterator[RepositoryFacts]:
    return (one for one in facts.repositories if one.is_cvmfs)
