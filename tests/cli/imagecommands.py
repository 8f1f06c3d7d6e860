"""What the tests of `image`, `verify` and `prefetch` run them on: small images, and repositories that hold them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cli.commands import Said, command
from tests.fidelity.publishing import Form, publish
from tests.images.ocilayout import Compression, Image, write_image
from tests.images.tarlayer import MTIME_NS, Dir, Entry, File, Hardlink, Symlink, Whiteout, layer_tar

HERE, THERE = "unpacked.example.org", "other.example.org"
NAME = "registry.example.org/test/image:1"
FIRST, SECOND, THIRD = b"base\n" * 1000, b"middle\n" * 100, b"top\n"

LAYERS: Sequence[Sequence[Entry]] = (
    (
        Dir("bin"), File("bin/tool", b"#!/bin/shell -x\n" + FIRST, mode=0o4755), File("bin/shell", FIRST, mode=0o755),
        Dir("etc", uid=7, gid=8), File("etc/gone", b"gone\n"), File("etc/kept", FIRST, mtime_ns=MTIME_NS + 500_000_000),
    ),
    (
        Dir("etc"), Whiteout("etc/gone"), File("etc/one", SECOND), Hardlink("etc/two", target="etc/one"),
        File("etc/unused", SECOND),
    ),
    (File("opt/deep/file", THIRD, xattrs={"user.note": b"x"}), Symlink("opt/tool", "../bin/tool")),
)  # fmt: skip
"""Three layers with a deletion, a hard link, an attribute and directories that no tar lists."""


def image(layout: Path, ref: str = "image", compression: Compression = "gzip", layers: int = 3) -> Image:
    """An image of the lowest of these layers."""
    tars = [layer_tar(entries) for entries in LAYERS[:layers]]
    return write_image(layout, tars, ref, compression, config={"Entrypoint": ["tool"], "Cmd": ["--all"]})


def repository(directory: Path, published: Image, form: Form = Form.OVERLAY, name: str = NAME) -> Path:
    """A plain directory that holds the image."""
    publish(published, directory, name, form)
    return directory


def configuration(directory: Path, repositories: Mapping[str, Path], tables: str = "", **keys: object) -> Path:
    """A file with these repositories, in their order; `keys` have underscores, `tables` is TOML behind them."""
    own = {"root": str(directory / "state"), "address": str(directory / "s.sock"), "deadline": 2.0, **keys}
    lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in own.items()]
    for name, root in repositories.items():
        lines += ["[[repositories]]", f"name = {json.dumps(name)}", f"path = {json.dumps(str(root))}"]
    path = directory / "config.toml"
    path.write_text("\n".join([*lines, tables]) + "\n")
    return path


def run(*arguments: object, config: Path) -> Said:
    """A command on a machine without containerd."""
    bare = {"PATH": os.fspath(config.parent)}
    return command(*map(str, arguments), "--config", str(config), environment=bare)
