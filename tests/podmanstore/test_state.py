"""What a build remembers: all of it or nothing."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podmanstore.state import STATE, State, decode, encode, find_state, keep_state
from podmanstore.values import HeldLayer, LeftOut, Mount
from tests.podmanstore.holding import CATALOG, layer, shim

LAYERS = (
    layer("a", own_catalogs=(b"x/.cvmfscatalog",)),
    layer("b", hide=shim(b".cvmfscatalog"), white=shim(b"d/x")),
    layer("c", hide=None, tar_size=None, tar_split="/cvmfs/test/c"),
)


def named(*layers: HeldLayer) -> dict[str, HeldLayer]:
    return {held.layer: held for held in layers}


STATE_OF_ALL = State(Mount.BOTH, "request", (7, None), named(*LAYERS), (LeftOut("a:1", "why"),))


def test_a_state_is_read_back(tmp_path: Path) -> None:
    """Whole; layers with the same shim share it again."""
    assert find_state(tmp_path / STATE) is None
    assert keep_state(tmp_path / STATE, STATE_OF_ALL)
    found = find_state(tmp_path / STATE)
    assert found == STATE_OF_ALL
    assert found.layers[LAYERS[0].layer].hide is found.layers[LAYERS[1].layer].hide
    assert found.layers[LAYERS[0].layer].hide == CATALOG


def test_the_same_state_is_not_written_again(tmp_path: Path) -> None:
    """A build that changes nothing writes nothing."""
    keep_state(tmp_path / STATE, STATE_OF_ALL)
    inode = (tmp_path / STATE).stat().st_ino
    assert not keep_state(tmp_path / STATE, STATE_OF_ALL)
    assert (tmp_path / STATE).stat().st_ino == inode


def test_the_order_of_layers_does_not_matter() -> None:
    """Same layers, same bytes."""
    ways = [State(Mount.BOTH, "", (), named(*order)) for order in itertools.permutations(LAYERS)]
    assert len({encode(way) for way in ways}) == 1


def test_a_shim_is_written_once() -> None:
    """Thousands of layers need the same one."""
    many = named(*(layer(f"layer {number}", hide=shim(b"a/long/name/in/it" * 9)) for number in range(50)))
    assert len(encode(State(Mount.BOTH, "", (), many))) < 50 * 600


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 32, b"\0" * 100, encode(STATE_OF_ALL)[:-1], encode(STATE_OF_ALL) + b"x"]
)
def test_a_damaged_state(tmp_path: Path, content: bytes) -> None:
    """Counts as none."""
    (tmp_path / STATE).write_bytes(content)
    assert find_state(tmp_path / STATE) is None


@given(st.data())
def test_a_flipped_byte(data: st.DataObject) -> None:
    """Counts as none, wherever it is: a shim with another name in it would show a wrong tree."""
    content = bytearray(encode(STATE_OF_ALL))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(content)) is None


def test_a_staged_file_of_a_dead_build(tmp_path: Path) -> None:
    """Is written over."""
    (tmp_path / f"{STATE}-new").write_bytes(b"half")
    keep_state(tmp_path / STATE, STATE_OF_ALL)
    assert find_state(tmp_path / STATE) == STATE_OF_ALL
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
