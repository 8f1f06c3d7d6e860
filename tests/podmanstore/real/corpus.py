"""The nasty images in repositories of three forms, and in podman itself: root file systems that can be compared."""

import base64
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvmfsrepo.compare import Trees, content_differences, differences, scan
from cvmfsrepo.tree import Entry
from tests.engines.podman import Bind, Podman, Service
from tests.engines.process import EngineError
from tests.fidelity.publishing import Form, publish
from tests.images import oracle
from tests.images.nasty import ALL
from tests.images.ocilayout import write_image
from tests.podmanstore.real.world import command
from tests.standins import standin

STORES: Final = {Form.OVERLAY: ("both",), Form.OCI: ("kernel", "both", "fuse-overlayfs"), Form.DUCC: ("kernel",)}
"""Mount kinds that are built for, by the form of the repository."""
LAYOUT: Final = Path("/layout")
_API: Final = "/v4.0.0/libpod"


@dataclass(frozen=True, slots=True)
class Tree:
    """A root file system: where it is and what is in it; `undated` are the directories that the last layer with
    anything in them does not list, and the root."""

    root: Path
    entries: Trees
    undated: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Each image of `ALL` by its name; `left_out` says for each store which ones it does not serve."""

    directory: Path
    oracles: Mapping[str, Tree]
    left_out: Mapping[tuple[Form, str], frozenset[str]]

    def mount(self, form: Form) -> Path:
        return self.directory / f"mounted-{form.value}"

    def store(self, form: Form, kind: str) -> Path:
        return self.directory / f"{form.value}-{kind}"

    def binds(self, form: Form) -> list[Bind]:
        return [Bind(self.mount(form), read_only=True)]

    @property
    def layout(self) -> Bind:
        """The images' layout, where podman takes its path for a part of a name: at `LAYOUT`."""
        return Bind(self.directory / "layout", LAYOUT)


def reference(name: str) -> str:
    return f"registry.example/{name.lower()}:1"


@contextmanager
def corpus() -> Iterator[Corpus]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cv-", dir="/tmp")))
        directory.chmod(0o755)
        oracles = {}
        (directory / "oracles").mkdir()
        for name, described in ALL.items():
            image = write_image(directory / "layout", described.tars(), name, config={"Cmd": ["/x"]})
            for form in STORES:
                publish(image, directory / form.value, reference(name), form)
            config = directory / Form.DUCC.value / "podmanStore/overlay-images" / image.config.removeprefix("sha256:")
            config.mkdir(parents=True)
            key = "=" + base64.b64encode(image.config.encode()).decode()
            shutil.copy(image.blob(image.config), config / key)
            root = directory / "oracles" / name
            undated = oracle.apply(described.tars(), root)
            oracles[name] = Tree(root, scan(root), frozenset(map(os.fsencode, undated - {"."})) | {b""})
        made = Corpus(directory, oracles, {})
        left_out = {}
        for form, kinds in STORES.items():
            stack.enter_context(standin(directory / form.value, made.mount(form), kcache=60))
            for kind in kinds:
                left_out[form, kind] = _build(made, form, kind)
        yield Corpus(directory, oracles, left_out)


def _build(made: Corpus, form: Form, kind: str) -> frozenset[str]:
    """Builds a store; the images that it leaves out."""
    options = ("--repository", made.mount(form), "--store", made.store(form, kind), "--mount", kind, "--json")
    said = command("build", *options, status=None)
    out = {each["name"] for each in json.loads(said.splitlines()[0])["left_out"]}
    return frozenset(name for name in ALL if reference(name) in out)


def mounted(podman: Podman, service: Service, image: str) -> Path:
    """The root of a new container of the image, as the kernel or fuse-overlayfs shows it."""
    answer = service.request("POST", f"{_API}/containers/{_created(service, image)}/mount")
    return podman.inside(_text(answer, 200).strip().strip('"'))


def exported(service: Service, image: str) -> dict[str, tuple[str, int, bytes]]:
    """What a user's podman reads of a new container of the image: type, mode and content (or target) by name."""
    status, body = service.request("GET", f"{_API}/containers/{_created(service, image)}/export")
    if status != 200:
        raise EngineError(f"image {image!r}: cannot be exported: {body[-500:]!r}")
    found: dict[str, tuple[str, int, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(body), encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            if member.islnk():
                found[name] = found[os.path.normpath(member.linkname)]
                continue
            file = tar.extractfile(member) if member.isreg() else None
            content = file.read() if file else os.fsencode(member.linkname)
            found[name] = (_LETTERS[member.type], 0 if member.issym() else member.mode & 0o7777, content)
    return found


_LETTERS: Final = {
    tarfile.REGTYPE: "-", tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.FIFOTYPE: "p", tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
}  # fmt: skip


def as_exported(tree: Tree) -> dict[str, tuple[str, int, bytes]]:
    """The same of a tree."""
    found = {}
    for path, entry in tree.entries.items():
        file = os.path.join(os.fsencode(tree.root), path)
        content = Path(os.fsdecode(file)).read_bytes() if stat.S_ISREG(entry.mode) else entry.target
        mode = 0 if stat.S_ISLNK(entry.mode) else entry.mode & 0o7777
        found[os.fsdecode(path)] = (stat.filemode(entry.mode)[0], mode, content)
    return found


def different(expected: Tree, found_root: Path, ignored: tuple[str, ...], implied: tuple[str, ...]) -> list[str]:
    """Differences but those in fields that are `ignored`, or `implied` and of a directory that no tar says more of."""

    def ignore(entry: Entry, field: str) -> bool:
        return field in ignored or (entry.path in expected.undated and field in implied)

    found = scan(found_root)
    both = [
        path for path, entry in sorted(expected.entries.items())
        if stat.S_ISREG(entry.mode) and path in found and found[path].size == entry.size
    ]  # fmt: skip
    every = [
        *differences(expected.entries, found, ignore=ignore), *content_differences(expected.root, found_root, both),
    ]  # fmt: skip
    return [str(each) for each in every]


def _created(service: Service, image: str) -> str:
    request = json.dumps({"image": image, "command": ["/x"]}).encode()
    identity: str = json.loads(_text(service.request("POST", f"{_API}/containers/create", request), 201))["Id"]
    return identity


def _text(answer: tuple[int, bytes], expected: int) -> str:
    status, body = answer
    if status != expected:
        raise EngineError(f"podman's service: {status}: {body[-1000:]!r}")
    return body.decode()
