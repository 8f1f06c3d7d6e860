"""Whole images as people build them: Debian by mmdebstrap, buildah and umoci, and a small one of 100 layers.

They are built once, into `.cache/images`, from programs of Debian packages that are unpacked and not installed.
buildah's own `run` cannot be used so: its child process starts with an empty environment and does not find the
unpacked libraries. So its container is mounted (`buildah mount`) in a mount namespace of its own, which takes the
mount away whatever happens, and the command runs there in a chroot. What buildah commits is the same.

`python -m tests.images.debian` builds both now and says what they are.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.engines import debs
from tests.images.nasty_entries import CAP_NET_RAW, file_capability
from tests.images.ocilayout import Image, read_image, write_image
from tests.images.tarlayer import Dir, Entry, File, Opaque, Symlink, Whiteout, layer_tar

CACHE: Final = debs.CACHE / "images"
FORMAT: Final = 2
"""Part of every directory's name: a change in how images are built builds new ones."""
REF: Final = "latest"
DEEP_LAYERS: Final = 100

_INCLUDED: Final = ("iputils-ping", "passwd", "less", "python3", "g++", "git")
_TRIM: Final = """
rm /etc/motd /etc/apt/sources.list /etc/apt/apt.conf.d/01autoremove
rm -rf /usr/share/man && mkdir /usr/share/man && echo 'no manuals' > /usr/share/man/README
rm -rf /etc/apt/trusted.gpg.d && mkdir -m 0700 /etc/apt/trusted.gpg.d
rm -rf /usr/share/bash-completion && echo 'a file now' > /usr/share/bash-completion
rm -rf /var/log/apt && ln -s /tmp /var/log/apt
"""
_APPLICATION: Final = """
install -d -m 2775 -o 33 -g 33 /opt/app /opt/app/data
install -d -m 0700 -o 1000 -g 1000 /opt/app/private
cp /bin/true /opt/app/tool && chown 33:33 /opt/app/tool && chmod 6755 /opt/app/tool
ln /opt/app/tool /opt/app/tool-again && ln /opt/app/tool /usr/local/bin/tool
rm /usr/share/man/README && echo 'manuals later' > /usr/share/man/NOTE
rm /usr/share/bash-completion && mkdir /usr/share/bash-completion && touch /usr/share/bash-completion/new
touch '/opt/app/data/a:b,c\\d=e f' /opt/app/data/gone /tmp/left
useradd --uid 1000 --create-home someone
mkfifo /opt/app/fifo && chmod 0620 /opt/app/fifo
mknod /opt/app/disk b 8 1 && chmod 0640 /opt/app/disk
"""


def debian_image() -> Image:
    """A Debian root file system of six layers: base, two made by buildah, one repacked and two inserted by umoci."""
    return _built("debian", _build_debian)


def deep_image() -> Image:
    """Busybox and 99 small layers that add, change and delete."""
    return _built("deep", _build_deep)


@dataclass(frozen=True, slots=True)
class _Buildah:
    """buildah with storage, configuration and temporary files of its own below one directory."""

    tool: debs.Tool
    policy: Path

    @classmethod
    def below(cls, directory: Path) -> "_Buildah":
        files = {
            "policy.json": '{"default":[{"type":"insecureAcceptAnything"}]}',
            "registries.conf": "",
            "containers.conf": "",
            "storage.conf": f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/storage"\n'
            f'runroot = "{directory}/run"\n',
        }
        for name, text in files.items():
            (directory / name).write_text(text)
        tool = debs.BUILDAH.tool(
            "buildah",
            CONTAINERS_CONF=str(directory / "containers.conf"),
            CONTAINERS_STORAGE_CONF=str(directory / "storage.conf"),
            CONTAINERS_REGISTRIES_CONF=str(directory / "registries.conf"),
            TMPDIR=str(directory),
        )
        return cls(tool, directory / "policy.json")

    def run(self, *arguments: str | Path) -> str:
        """In a mount namespace of its own: whatever happens, no mount stays."""
        return self._alone(self.tool.path, *arguments).strip()

    def start(self, image: str) -> str:
        policy: list[str | Path] = [] if image == "scratch" else ["--signature-policy", self.policy]
        return self.run("from", "--pull-never", *policy, image)

    def shell(self, container: str, script: str) -> None:
        """Run the script in the container, as `buildah run` would."""
        inner = 'set -e; root=$("$1" mount "$2"); chroot "$root" /bin/sh -ec "$3"; "$1" umount "$2" >/dev/null'
        self._alone("sh", "-c", inner, "sh", self.tool.path, container, script)

    def _alone(self, *command: str | Path) -> str:
        unshare = debs.Tool(Path(shutil.which("unshare") or "unshare"), self.tool.environment)
        return unshare.run("--mount", *command)

    def commit(self, container: str, image: str) -> None:
        self.run("commit", "-q", "--rm", "--signature-policy", self.policy, container, image)

    def push(self, image: str, layout: Path) -> None:
        self.run("push", "-q", "--signature-policy", self.policy, image, f"oci:{layout}:{REF}")


def _build_debian(stage: Path, layout: Path) -> None:
    base = stage / "base.tar"
    debs.BOOTSTRAP.tool("mmdebstrap", TMPDIR=str(stage)).run(
        "-q", "--mode=root", "--variant=minbase", f"--include={','.join(_INCLUDED)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=Acquire::Check-Valid-Until "false"', "bookworm", base, f"deb {debs.mirror()} bookworm main",
    )  # fmt: skip
    buildah = _Buildah.below(stage)
    container = buildah.start("scratch")
    buildah.run("add", "-q", container, base, "/")
    buildah.run("config", "--cmd", "/bin/bash", container)
    buildah.commit(container, "base")
    base.unlink()
    for below, name, script in (("base", "trimmed", _TRIM), ("trimmed", "application", _APPLICATION)):
        container = buildah.start(below)
        buildah.shell(container, script)
        buildah.commit(container, name)
    buildah.push("application", layout)
    _add_layers_with_umoci(stage, layout)


def _add_layers_with_umoci(stage: Path, layout: Path) -> None:
    umoci = debs.UMOCI.tool("umoci", TMPDIR=str(stage))
    image = f"{layout}:{REF}"
    bundle = stage / "bundle"
    umoci.run("unpack", "--image", image, bundle)
    _edit(bundle / "rootfs")
    umoci.run("repack", "--refresh-bundle", "--image", image, bundle)
    inserted = stage / "inserted"
    inserted.mkdir()
    (inserted / "only").write_text("inserted\n")
    umoci.run("insert", "--image", image, "--opaque", inserted, "/usr/share/common-licenses")
    umoci.run("insert", "--image", image, "--whiteout", "/etc/skel")
    umoci.run("gc", "--layout", layout)


def _edit(root: Path) -> None:
    """What a shell in the image could not do: file capabilities, attributes; and deletions found by comparison."""
    (root / "opt/app/data/gone").unlink()
    (root / "usr/share/man/NOTE").unlink()
    shutil.rmtree(root / "usr/share/doc/apt")
    for name in ("less", "lessecho"):
        (root / "usr/bin" / name).chmod(0o751)
    raw = root / "opt/app/raw"
    raw.write_bytes(b"#!/bin/sh\n")
    raw.chmod(0o755)
    os.setxattr(raw, "security.capability", file_capability(CAP_NET_RAW))
    os.setxattr(root / "opt/app/private", "user.note", b"private\0\xff")
    os.mknod(root / "opt/app/null", 0o020666, os.makedev(1, 3))
    (root / "opt/app/again").hardlink_to(raw)


def _build_deep(stage: Path, layout: Path) -> None:
    program = debs.BUSYBOX.tool("busybox").path.read_bytes()
    base: list[Entry] = [Dir(name) for name in ("bin", "dev", "etc", "proc", "sys")]
    base += [Dir("tmp", mode=0o1777), File("bin/busybox", program, mode=0o755), Symlink("bin/sh", "busybox")]
    layers = [layer_tar(base), *(layer_tar(_small_layer(number)) for number in range(2, DEEP_LAYERS + 1))]
    write_image(layout, layers, REF, config={"Cmd": ["/bin/busybox", "cat", "/etc/count"]})


def _small_layer(number: int) -> Iterator[Entry]:
    """Adds, replaces, deletes what the third layer below added, and every twentieth empties a directory."""
    yield File("etc/count", f"{number}\n".encode())
    yield File(f"srv/{number % 4}/{number:03}", f"{number}\n".encode(), mode=0o640, uid=number)
    if number > 4:
        yield Whiteout(f"srv/{(number - 3) % 4}/{number - 3:03}")
    if number % 20 == 0:
        yield Dir("srv/log", mode=0o750, gid=number)
        yield Opaque("srv/log")
    yield File(f"srv/log/{number:03}", b"x" * number)


def _built(name: str, build: Callable[[Path, Path], None]) -> Image:
    """The finished layout, built if it is missing: whole or not at all, by one process at a time."""
    layout = CACHE / f"{name}-{FORMAT}"
    with _locked(CACHE / f"{name}.lock"):
        if not layout.exists():
            if os.geteuid() != 0:
                raise PermissionError(f"image {name!r}: building needs root, for owners and devices; run as root")
            for left in CACHE.glob(f"{name}.part-*"):
                shutil.rmtree(left)
            stage = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=CACHE))
            build(stage, stage / "layout")
            (stage / "layout").rename(layout)
            shutil.rmtree(stage)
    return read_image(layout, REF)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for image in (debian_image(), deep_image()):
        size = sum(image.blob(digest).stat().st_size for digest in image.layers)
        print(f"{image.source}: {len(image.layers)} layers, {size:,} bytes compressed, manifest {image.manifest}")
