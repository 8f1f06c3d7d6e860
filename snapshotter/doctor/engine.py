"""Checks of containerd: is it found, does it send images to us, and does it listen at the right place?"""

from collections.abc import Iterator

from snapshotter.doctor.values import EngineFacts, Facts, Finding, fault, fine, warning
from snapshotter.engineconfig.generator import PLUGIN
from snapshotter.engineconfig.reading import EngineConfig
from snapshotter.engineconfig.versions import OLDEST

MERGE = f"merge what `{PLUGIN} config containerd` prints into {{path}}, and restart containerd"
_BUILT_IN = frozenset({"overlayfs", "native", "btrfs", "devmapper", "zfs", "blockfile", "erofs", "aufs"})


def merge_advice(facts: EngineFacts) -> str:
    """How a fault of the configuration is mended."""
    place = facts.config_path
    if facts.distribution.marker and facts.version:
        place = facts.distribution.snippet(facts.version)
    if facts.version and facts.version.major >= 2 and facts.written and facts.written.version == 2:
        return (
            f"write {facts.config_path} anew in version 3 (containerd config migrate); then {MERGE.format(path=place)}"
        )
    return MERGE.format(path=place)


def plugin_of(facts: Facts) -> str:
    """The name under which containerd knows our socket; ours where it does not know it."""
    proxies = facts.engine.config.proxies if facts.engine.config else {}
    named = [name for name, proxy in proxies.items() if proxy.address == facts.config.address]
    return named[0] if named and PLUGIN not in named else PLUGIN


def version(facts: Facts) -> Iterator[Finding]:
    """An engine that we know how to talk to."""
    engine = facts.engine
    if engine.version is None:
        fix = "give --containerd, its program, or --containerd-version"
        yield warning("containerd", "no containerd was found", "nothing can be said of its configuration", fix)
    elif not engine.version.at_least(OLDEST.major, OLDEST.minor):
        why = f"nothing older than {OLDEST.major}.{OLDEST.minor} was tested"
        yield warning("containerd", f"containerd is {engine.version}", why, "upgrade containerd")
    else:
        of = f" of {engine.distribution.name}" if engine.distribution.marker else ""
        yield fine("containerd", f"containerd {engine.version}{of}, configured by {engine.config_path}")


def configuration(facts: Facts) -> Iterator[Finding]:
    """A configuration that can be read, in a format that this containerd takes."""
    engine, name = facts.engine, "configuration"
    if engine.problem:
        why = "containerd does not start with it, or with other settings than the file says"
        yield fault(name, engine.problem, why, f"correct {engine.config_path}")
    elif engine.effective is None and engine.written:
        why = "what containerd makes of it, with its defaults and imports, may differ"
        yield warning(name, f"only the file {engine.config_path} was read", why, "give --containerd, its program")
    yield from _format(engine)
    if engine.config and engine.config.disables_cri:
        why = "kubelet cannot use this containerd"
        fix = f"take cri out of disabled_plugins in {engine.config_path}, and restart containerd"
        yield warning(name, "CRI is among disabled_plugins", why, fix)


def _format(engine: EngineFacts) -> Iterator[Finding]:
    written, release = engine.written, engine.version
    if written is None or release is None:
        return
    if written.version < 2 and written.names_plugins:
        what = f"{engine.config_path} has no line `version = {3 if release.major >= 2 else 2}` at its top"
        why = "containerd takes it for the oldest format and ignores its tables of plugins without an error"
        yield fault("configuration", what, why, "add that line as the first one, and restart containerd")
    elif written.version >= 3 and release.major < 2:
        why = "containerd 1.7 does not start with it, and 1.6 ignores its tables without an error"
        what = f"{engine.config_path} is of version {written.version}, which containerd {release} does not know"
        yield fault("configuration", what, why, "write it in version 2: " + merge_advice(engine))
    else:
        yield fine("configuration", f"{engine.config_path} is of version {written.version}")


def proxy(facts: Facts) -> Iterator[Finding]:
    """The proxy plugin, and its address."""
    config, name = facts.engine.config, "proxy plugin"
    if config is None:
        return
    plugin, address = plugin_of(facts), facts.config.address
    found = config.proxies.get(plugin)
    if found is None:
        why = "containerd does not know this snapshotter"
        yield fault(name, f"there is no [proxy_plugins.{plugin}]", why, merge_advice(facts.engine))
    elif found.type != "snapshot":
        yield fault(
            name, f"[proxy_plugins.{plugin}] is of type {found.type!r}", "containerd does not take it as a snapshotter",
            'write type = "snapshot", and restart containerd',
        )  # fmt: skip
    elif found.address != address:
        fix = f"write address = {address!r} there and restart containerd, or set `address` of the daemon"
        what = f"[proxy_plugins.{plugin}] points to {found.address}, and the daemon serves on {address}"
        yield fault(name, what, "every call fails with Unavailable", fix.replace("'", '"'))
    else:
        yield fine(name, f"{plugin} at {address}")


def snapshotter(facts: Facts) -> Iterator[Finding]:
    """Images of pods come to us, or to a runtime's own snapshotter that is us."""
    config, written = facts.engine.config, facts.engine.written
    if config is None:
        return
    plugin, name = plugin_of(facts), "snapshotter"
    if config.snapshotter == plugin:
        yield fine(name, f"images go to {plugin}")
    elif written and _loses_its_tables(facts.engine, written):
        what = f"the file names {written.snapshotter}, and containerd {facts.engine.version} silently takes overlayfs"
        why = (
            "containerd 2.x ignores the CRI settings of a version 2 file that has no table of runtimes:"
            " everything is downloaded"
        )
        yield fault(name, what, why, merge_advice(facts.engine))
    elif config.snapshotter not in config.proxies and config.snapshotter not in _BUILT_IN:
        what = f"images go to {config.snapshotter}, which is no plugin of this containerd"
        yield fault(name, what, "every pull and every pod fails", merge_advice(facts.engine))
    elif plugin in (*config.runtime_snapshotters.values(), *config.platform_snapshotters.values()):
        yield fine(name, f"images go to {config.snapshotter}, but for runtimes that have {plugin}")
    else:
        why = "every image is downloaded"
        yield fault(name, f"images go to {config.snapshotter}, not to {plugin}", why, merge_advice(facts.engine))


def _loses_its_tables(engine: EngineFacts, written: EngineConfig) -> bool:
    if engine.version is None or engine.version.major < 2 or written.version != 2 or written.runtimes:
        return False
    return written.snapshotter != "overlayfs" and (engine.effective or EngineConfig()).snapshotter == "overlayfs"


def runtimes(facts: Facts) -> Iterator[Finding]:
    """Snapshotters of single runtimes agree with where their images are."""
    config, release = facts.engine.config, facts.engine.version
    if config is None or release is None:
        return
    plugin, name, found = plugin_of(facts), "runtimes", False
    for runtime, own in sorted({**config.platform_snapshotters, **config.runtime_snapshotters}.items()):
        unpacked = config.platform_snapshotters.get(runtime, config.snapshotter)
        where = f"runtime {runtime} has the snapshotter {own}"
        if own not in config.proxies and own not in _BUILT_IN:
            found = True
            yield fault(name, f"{where}, which is no plugin", "its containers cannot be made", "correct its name")
        elif release.major >= 2 and own != unpacked and plugin in (own, unpacked):
            found = True
            why = "each image is unpacked once more when a container is made, from what was downloaded for it"
            fix = f"write the same snapshotter for [...images.runtime_platforms.{runtime}] and [...runtimes.{runtime}]"
            yield warning(name, f"{where}, and its images are unpacked into {unpacked}", why, fix)
        elif own != plugin and runtime == config.default_runtime:
            found = True
            why = "containers of the default runtime are not served from a repository"
            yield warning(name, where, why, f"take that line out, or name {plugin} there")
    if not found:
        yield fine(name, "no runtime has a snapshotter that contradicts")
