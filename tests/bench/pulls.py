"""Pulls of a whole Debian image through CRI: into overlayfs from a registry, and out of a repository."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cvmfsrepo.oci import Platform, Reference
from publisher.opening import open_source
from publisher.publishing.publish import publish_image
from tests.bench.samples import Row, Samples, Target
from tests.bench.servers import Server, ours
from tests.engines.busybox import push_pause
from tests.engines.containerd import Containerd, Proxy
from tests.engines.cri import Cri
from tests.engines.registry import Registry
from tests.images.debian import debian_image

PULL = Row("pull of a Debian image of 6 layers", target=Target(ratio=0.01))
ROWS = (PULL,)
VERSION = "2.1"


def measure(directory: Path, rounds: int, say: Callable[[str], None]) -> Samples:
    """The time of a pull, the image removed before each; `directory` has a short name."""
    say("building and publishing the Debian image")
    image, samples, repository = debian_image(), Samples(), directory / "unpacked"
    repository.mkdir()
    with ExitStack() as running:
        registry = running.enter_context(Registry(directory / "registry"))
        reference = registry.push(image.path, image.ref, "library/debian:1")
        publish_image(
            open_source(image.source, Platform("linux", "amd64")), repository, name=Reference.parse(reference)
        )
        server = running.enter_context(Server(ours(directory / "pull.toml", repository), directory / "pull"))
        sandbox = push_pause(registry)
        proxy = Proxy(server.address, server.root)
        engines = {
            "overlayfs": running.enter_context(Containerd(VERSION, sandbox)),
            "ours": running.enter_context(Containerd(VERSION, sandbox, proxy)),
        }
        clients = {name: running.enter_context(Cri(engine.socket)) for name, engine in engines.items()}
        for number in range(rounds):
            for name, client in clients.items():
                say(f"pull {number + 1} of {rounds}: {name}")
                before = registry.mark()
                samples.add(PULL, name, _pull(client, reference))
                layers = set(registry.blob_requests(before)) & set(image.layers)
                assert bool(layers) == (name == "overlayfs"), f"{name} fetched {len(layers)} layers"
                client.remove_image(reference)
    return samples


def _pull(client: Cri, reference: str) -> float:
    began = time.monotonic()
    client.pull(reference)
    return time.monotonic() - began
