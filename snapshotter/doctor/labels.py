"""Checks of what containerd tells a snapshotter: which layer it wants, and where the disk is."""

from collections.abc import Iterator

from snapshotter.doctor.engine import merge_advice, plugin_of
from snapshotter.doctor.values import Facts, Finding, fault, fine, warning
from snapshotter.engineconfig.reading import EngineConfig

_EXPORT = "enable_remote_snapshot_annotations"
_UNNAMED = (
    "containerd does not say which layer of which image it wants: only layers that the index knows are served,"
    " everything else is downloaded"
)

_REFUSES = "only-remap-ids"
_SIDE_BY_SIDE = "containerd unpacks layers side by side, without parents: layers of a repository are not found again"
_MAPPED = "containerd counts on owners that are mapped, and a repository's layers cannot be: pods do not start"
_COPIED = "for a pod in a user namespace containerd would copy its image's local layers file by file, to change owners"


def labels(facts: Facts) -> Iterator[Finding]:
    """CRI names each layer; how it is told to differs from one generation to the next."""
    config, release = facts.engine.config, facts.engine.version
    if config is None or release is None or plugin_of(facts) not in config.proxies:
        return
    name = "labels"
    if not config.annotations_disabled:
        yield fine(name, "disable_snapshot_annotations = false")
    elif not release.at_least(2, 1):
        fix = "write disable_snapshot_annotations = false beside `snapshotter`, and restart containerd"
        yield fault(name, "disable_snapshot_annotations is on, as by default", _UNNAMED, fix)
    elif config.local_pull:
        what = f"{', '.join(config.local_pull)} make containerd pull without the transfer service, and without labels"
        fix = "take those settings out, or write disable_snapshot_annotations = false beside `snapshotter`"
        yield fault(name, what, _UNNAMED, f"{fix}; restart containerd")
    elif config.proxies[plugin_of(facts)].exports.get(_EXPORT) != "true":
        what = f'[proxy_plugins.{plugin_of(facts)}.exports] lacks {_EXPORT} = "true"'
        yield fault(name, what, _UNNAMED, merge_advice(facts.engine))
    else:
        yield fine(name, f"{_EXPORT} is exported")


def unpacking(facts: Facts) -> Iterator[Finding]:
    """The transfer service, through which containerd 2.1 pulls for pods and 2.0 for ctr, unpacks into our plugin."""
    config, release = facts.engine.config, facts.engine.version
    if config is None or release is None or release.major < 2:
        return
    plugin, name = plugin_of(facts), "unpack_config"
    for_pods = release.at_least(2, 1) and config.annotations_disabled and not config.local_pull
    say = fault if for_pods else warning
    who = "every pull" if for_pods else "every `ctr images pull`"
    fix = merge_advice(facts.engine)
    if not config.unpack:
        what = 'there is no [[plugins."io.containerd.transfer.v1.local".unpack_config]]'
        yield say(name, what, f'{who} fails with "no unpack platforms defined", or does not unpack', fix)
    elif plugin not in (into for _, into in config.unpack) and _is_wanted(config, plugin):
        into = ", ".join(sorted({into for _, into in config.unpack}))
        what = f"the transfer service unpacks into {into}, not into {plugin}"
        yield say(name, what, f"{who} for {plugin} is refused or unpacked into something else", fix)
    else:
        yield fine(name, ", ".join(f"{platform} into {into}" for platform, into in config.unpack))


def _is_wanted(config: EngineConfig, plugin: str) -> bool:
    return plugin in (config.snapshotter, *config.platform_snapshotters.values())


def exports_root(facts: Facts) -> Iterator[Finding]:
    """kubelet finds the disk that our snapshots take."""
    config, release = facts.engine.config, facts.engine.version
    plugin, name = plugin_of(facts), "exports.root"
    if config is None or release is None or plugin not in config.proxies:
        return
    found, root = config.proxies[plugin].exports.get("root"), facts.config.root
    blind = 'kubelet says "invalid capacity 0 on image filesystem" and removes no images when the disk fills'
    if not release.at_least(1, 7, 16):
        what = f"containerd {release} cannot be told where the snapshots are"
        yield warning(name, what, blind, "upgrade containerd to 1.7.16 or newer")
    elif found is None:
        yield fault(name, f"[proxy_plugins.{plugin}.exports] has no root", blind, merge_advice(facts.engine))
    elif found.rstrip("/") != root.rstrip("/"):
        what = f"[proxy_plugins.{plugin}.exports] names {found}, and the daemon's state is in {root}"
        why = "kubelet watches the wrong disk, and removes images at the wrong time"
        yield fault(name, what, why, f'write root = "{root}" there, and restart containerd')
    else:
        yield fine(name, root)


def capabilities(facts: Facts) -> Iterator[Finding]:
    """Nothing is promised that remote snapshots cannot keep."""
    config, release = facts.engine.config, facts.engine.version
    plugin = plugin_of(facts)
    if config is None or release is None or plugin not in config.proxies:
        return
    name, promised = "capabilities", config.proxies[plugin].capabilities
    wrong = {"rebase": _SIDE_BY_SIDE, "remap-ids": _MAPPED}
    for capability in [each for each in wrong if each in promised]:
        fix = f"take {capability} out of capabilities in [proxy_plugins.{plugin}], and restart containerd"
        yield fault(name, f"[proxy_plugins.{plugin}] advertises {capability}", wrong[capability], fix)
    if not release.at_least(2, 0):
        if not wrong.keys() & set(promised):
            yield fine(name, "none is advertised")
    elif _REFUSES not in promised:
        what = f"[proxy_plugins.{plugin}] does not advertise {_REFUSES}"
        fix = f'write capabilities = ["{_REFUSES}"] there, and restart containerd'
        yield warning(name, what, _COPIED, fix)
    elif not wrong.keys() & set(promised):
        yield fine(name, f"{_REFUSES} is advertised: pods in user namespaces are refused")
