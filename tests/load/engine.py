"""As much of containerd as loads a snapshotter: names of several namespaces over one backend, and a collector.

Keys are `<namespace>/<number>/<key>`. A collection removes what no namespace refers to, children first, while nobody
creates anything; then it calls Cleanup beside everybody. So a client may count on what it has been given.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from cvmfsrepo.errors import AlreadyExists, FailedPrecondition, NotFound
from snapshotter.client import Client
from snapshotter.snapshots import Kind, Mount
from tests.snapshotter.layers import lookup


class Gate:
    """Many may be inside, or one alone; who wants to be alone comes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Engine:
    """What namespaces refer to, and how many operations there were. Shared by all clients."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.counts = Counter[str]()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._references = Counter[str]()

    def fresh(self, namespace: str, word: str) -> str:
        return f"{namespace}/{next(self._numbers)}/{word}"

    def count(self, operation: str) -> None:
        with self._lock:
            self.counts[operation] += 1

    def refer(self, name: str) -> None:
        with self._lock:
            self._references[name] += 1

    def forget(self, name: str) -> None:
        with self._lock:
            self._references[name] -= 1

    def pull(self, client: Client, namespace: str, parent: str, labels: Mapping[str, str], target: str) -> str:
        """One layer of a pull that a repository has: the name under which it is served, referred to."""
        with self.gate.together():
            with pytest.raises(AlreadyExists, match="is served"):
                client.prepare(self.fresh(namespace, "extract"), parent, labels)
            (name,) = lookup(client, target, parent)
            self.refer(name)
        info = client.stat(name)
        assert (info.kind, info.parent) == (Kind.COMMITTED, parent)
        self.count("remote")
        return name

    def create(
        self, client: Client, key: str, parent: str, labels: Mapping[str, str], *, view: bool = False
    ) -> tuple[Mount, ...]:
        """An active snapshot or a view, referred to."""
        with self.gate.together():
            mounts = (client.view if view else client.prepare)(key, parent, labels)
            self.refer(key)
        self.count("view" if view else "prepare")
        return mounts

    def commit(self, client: Client, key: str, name: str) -> None:
        with self.gate.together():
            client.commit(name, key, {})
            self.refer(name)
            self.forget(key)
        self.count("commit")

    def collect(self, client: Client) -> None:
        """As containerd's garbage collector: walk, remove what nothing refers to, Cleanup. A child is younger than
        its parent."""
        with self.gate.alone():
            with self._lock:
                self._references = +self._references
                unneeded = [info for info in client.walk() if info.name not in self._references]
            for info in sorted(unneeded, key=lambda info: info.created, reverse=True):
                self._remove(client, info.name)
        client.cleanup()
        self.count("collect")

    def _remove(self, client: Client, name: str) -> None:
        """What still has children stays; what went is gone."""
        try:
            client.remove(name)
        except FailedPrecondition:
            self.count("remove of a parent")
            return
        self.count("remove")
        with pytest.raises(NotFound):
            client.stat(name)
