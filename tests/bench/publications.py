"""Publishing: a Debian image beside GNU tar unpacking the same layers, and a wish list of which nothing changed.

tar decompresses in a process of its own and verifies nothing; the publisher verifies two digests, writes record and
tar-split, and waits until all is on the disk. Both end with the disk's word that everything is there.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from tests.bench.samples import Row, Samples, Target
from tests.images.debian import debian_image
from tests.images.ocilayout import Image, write_image
from tests.images.tarlayer import File, layer_tar
from tests.publisher.wishes.stub import Stub, running

WISHES = 700

PUBLISH = Row("publish a Debian image of 6 layers, beside tar -x", target=Target(ratio=1.3))
WITH_FLAT = Row("the same with its flat tree, beside tar -x")
AGAIN = Row("the same image again")
UNCHANGED = Row(f"a wish list of {WISHES} unchanged images", target=Target(value=10.0))
ROWS = (PUBLISH, WITH_FLAT, AGAIN, UNCHANGED)


def measure(directory: Path, rounds: int, tell: Callable[[str], object]) -> Samples:
    """Each in a process of its own, the start of Python included; `directory` is emptied between rounds."""
    image, samples = debian_image(), Samples()
    for number in range(rounds):
        tell(f"publishing, {number + 1} of {rounds}")
        for row, flat in ((PUBLISH, []), (WITH_FLAT, ["--flat"])):
            samples.add(row, "peer", _tar(image, directory / f"tar-{number}"))
            samples.add(row, "ours", _publish(image, directory / f"repository-{number}", *flat))
            if row is PUBLISH:
                samples.add(AGAIN, "ours", _publish(image, directory / f"repository-{number}"))
            _empty(directory)
    tell(UNCHANGED.name)
    samples.add(UNCHANGED, "ours", _unchanged(directory))
    return samples


def _tar(image: Image, directory: Path) -> float:
    began = monotonic()
    for number, layer in enumerate(image.layers):
        below = directory / str(number)
        below.mkdir(parents=True)
        options = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--ignore-zeros"]
        # Some layers end without the blocks that end a tar, of which tar complains when it has unpacked all.
        subprocess.run(["tar", *options, "-xzf", image.blob(layer), "-C", below], stderr=subprocess.DEVNULL)
    subprocess.run(["sync", "-f", directory], check=True)
    return monotonic() - began


def _publish(image: Image, repository: Path, *options: str) -> float:
    repository.mkdir(exist_ok=True)
    began = monotonic()
    _publisher("image", image.source, "--repository", str(repository), "--json", *options)
    return monotonic() - began


def _publisher(*arguments: str) -> str:
    command = [sys.executable, "-m", "publisher.cli.main", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _unchanged(directory: Path) -> float:
    """Seconds of a second pass: images of one layer, all of one repository of a registry on loopback."""
    image = write_image(directory / "wished", [layer_tar([File("f", b"x")])], "registry.example/group/image:1")
    (directory / "wishes").mkdir()
    with running(Stub(images={f"group/image:{number}": image for number in range(WISHES)})) as stub:
        recipe = directory / "recipe.yaml"
        wishes = "".join(f"  - 'http://{stub.address}/group/image:{number}'\n" for number in range(WISHES))
        recipe.write_text(f"version: 1\ncvmfs_repo: bench.example.org\ninput:\n{wishes}")
        arguments = ["wishlist", str(recipe), "--repository", str(directory / "wishes"), "--json", "--together", "100"]
        arguments += ["--state", str(directory / "state")]
        _publisher(*arguments)
        began = monotonic()
        outcomes = json.loads(_publisher(*arguments))
        seconds = monotonic() - began
    assert {outcome["outcome"] for outcome in outcomes} == {"present"}
    return seconds


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        subprocess.run(["rm", "-rf", path], check=True)
