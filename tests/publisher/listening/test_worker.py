"""The worker of the queue where the disk has no room for it."""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event

import pytest

from cvmfsrepo.oci import Reference
from publisher.durable import write_durably
from publisher.listening.queue import Queue
from publisher.listening.webhooks import Allowed
from publisher.listening.worker import Published, Worker

NAME = "registry.example/one:1"


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told, ends nothing, and costs no image its publication: it comes when something can be kept again."""
    full, stop, said, published = True, Event(), list[str](), list[Reference]()

    def write_if_it_can(path: Path, content: bytes, mode: int = 0o644) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_durably(path, content, mode)

    monkeypatch.setattr("publisher.listening.queue.write_durably", write_if_it_can)

    class Emptied(Queue):
        def pause(self, longest: float) -> None:
            nonlocal full
            full = False

    def publish(references: Iterable[Reference]) -> Mapping[Reference, Published]:
        published.extend(references)
        stop.set()
        return dict.fromkeys(published, ())

    with Emptied.opened(tmp_path) as queue:
        full = False
        queue.put(NAME, 1)
        full = True
        Worker(queue, Allowed.parse(["https://registry.example/*"]), publish, said.append, stop=stop).for_ever()
    assert [str(one) for one in published] == [NAME]
    assert said == [
        f"queue '{tmp_path}': cannot be written: No space left on device; look at the disk",
        f"unchanged {NAME}",
    ]
    assert not list((tmp_path / "jobs").iterdir())
