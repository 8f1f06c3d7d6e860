"""Input that others wrote: mangled valid input and any bytes at all. The answer is a value or an error that says so,
within bounded time and memory."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfsrepo.errors import AlreadyExists
from snapshotter import labels as label
from snapshotter.snapshotter import Snapshotter
from tests.examples import examples
from tests.fuzz.targets import LAYER, TARGETS, packed
from tests.snapshotter.layers import HandMade, lookup, pull

EXAMPLES = [60, pytest.param(300, marks=pytest.mark.slow)]
CPU_SECONDS = 2.0
"""Of this process, for one input of a few hundred bytes: hundreds of times what it takes."""

PROJECT = Path(__file__).resolve().parents[2]


@st.composite
def mangled(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A valid input with some of its bytes replaced, removed, repeated or put elsewhere; or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.integers(0, 12)))
        piece = bytes(content[at:until])
        content[at:until] = draw(st.one_of(st.binary(max_size=8), st.just(piece * 3), st.sampled_from(AWKWARD)))
    return bytes(content)


AWKWARD = (
    b"", b"\0", b"../", b"/", b"\n", b'"', b"\\", b"[", b"{", b"}", b"null", b"-1", b"1e999", b"9" * 30, b"sha256:",
    b"(a*)*", b"\xff\xff\xff\xff", b"\xed\xa0\x80", b"\xf0\x9f\xa6\xa6",
    b"\xc4\x02..", b"\xcf" + b"\xff" * 8, b"\xdd\xff\xff\xff\xff",  # as msgpack: "..", the largest numbers
)  # fmt: skip


@pytest.mark.parametrize("number", EXAMPLES)
@pytest.mark.parametrize("name", TARGETS)
def test_mangled_input(name: str, number: int) -> None:
    """No parser raises anything but InvalidArgument or DataLoss, nor takes long."""
    target = TARGETS[name]

    @settings(max_examples=examples(number))
    @given(mangled(target.seeds))
    def every(content: bytes) -> None:
        before = time.thread_time()
        target.run(content)
        assert time.thread_time() - before < CPU_SECONDS

    every()


@pytest.mark.parametrize("name", TARGETS)
def test_valid_input_is_taken(name: str) -> None:
    """What the mangling starts from is fine as it is: otherwise it would test one refusal again and again."""
    for seed in TARGETS[name].seeds:
        TARGETS[name].parse(seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_deep_and_large_input(name: str) -> None:
    """Thousands of levels, megabytes of one thing and numbers of thousands of digits: with 1 GiB of memory and 20 s of
    processor time, in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz.bombs", name]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("number", EXAMPLES)
def test_a_prepare_of_a_layer_with_any_record(
    verbs: Snapshotter, repository: HandMade, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """It is served or missed with a reason, and its mount can be had; nothing is written outside of the root."""
    caplog.set_level(logging.CRITICAL, "snapshotter")
    layer = repository.add("layer", {"etc/a": "", "tmp/b": "", ".wh.c": ""})
    assert layer == LAYER
    records = mangled(TARGETS["record"].seeds) | mangled(TARGETS["unpacked record"].seeds).map(packed)
    outcomes = set[str]()

    @settings(max_examples=number)  # as many in every tier, for all outcomes have to come
    @given(records)
    def every(content: bytes) -> None:
        repository.write_record(layer, content)
        for kept in (tmp_path / "root" / "layers").iterdir():
            kept.unlink()
        before = outside(tmp_path)
        try:
            verbs.prepare("key", "", pull("t", layer))
            reason = verbs.stat("key").labels[label.MISS].partition(":")[0]
        except AlreadyExists:
            (name,) = lookup(verbs, "t", "")
            assert verbs.view("key", name, {})
            reason = "served"
        outcomes.add(reason)
        for info in [*verbs.walk(["kind!=committed"]), *verbs.walk(["kind==committed"])]:
            verbs.remove(info.name)
        assert outside(tmp_path) == before

    every()
    assert outcomes == {"served", "markers-unavailable"}


def outside(directory: Path) -> set[Path]:
    """Everything near the node's root but what is below it, and what is above."""
    near = [path for path in directory.iterdir() if path.name != "root"]
    return {*directory.parent.iterdir(), *near, *(below for path in near for below in path.rglob("*"))}
