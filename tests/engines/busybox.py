"""A small image that runs anything: one static busybox, which is also the pause process of a pod."""

from collections.abc import Sequence
from pathlib import Path

from tests.engines import debs
from tests.engines.registry import Registry
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import Dir, Entry, File, Symlink, layer_tar

PAUSE = ("/bin/busybox", "sleep", "2147483647")


def base_entries() -> list[Entry]:
    """The layer's members: busybox under each of its names, and the directories that a runtime expects."""
    program = debs.BUSYBOX.tool("busybox")
    names = [name for name in program.run("--list").split() if name != "busybox"]
    folders = [Dir(name) for name in ("bin", "dev", "etc", "proc", "root", "sys", "var")]
    return [
        *folders,
        Dir("tmp", mode=0o1777),
        File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        File("etc/group", b"root:x:0:\n"),
        File("bin/busybox", program.path.read_bytes(), mode=0o755),
        *(Symlink(f"bin/{name}", "busybox") for name in names),
    ]


def write_busybox(layout: Path, ref: str = "busybox", upper: Sequence[Sequence[Entry]] = ()) -> Image:
    """An image of one busybox layer and the described layers above it; without a command it pauses."""
    layers = [layer_tar(base_entries()), *(layer_tar(entries) for entries in upper)]
    return write_image(layout, layers, ref, config={"Cmd": list(PAUSE)})


def push_pause(registry: Registry) -> str:
    """The sandbox image that CRI needs for every pod; its reference in this registry."""
    layout = registry.directory / "pause"
    write_busybox(layout, "pause")
    return registry.push(layout, "pause", "pause:1")
