"""`prefetch`: what is read of a repository, as its client sees it, and what happens when something is in the way."""

import time
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from tests.cli.imagecommands import FIRST, HERE, NAME, SECOND, THIRD, configuration, image, repository, run
from tests.fidelity.publishing import Form
from tests.mounting import Standin, standin

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def layer_path(layer: str) -> str:
    digest = Digest.parse(layer)
    return f"/.layers/{digest.hex[:2]}/{digest.hex}/layerfs"


def touched(client: Standin, operation: str) -> set[str]:
    """Paths in layers that were read so, without the layers' own."""
    paths = client.counters().paths.items()
    return {path.partition("/layerfs")[2] for path, counts in paths if operation in counts and "/layerfs" in path}


@pytest.mark.parametrize("form", [Form.OVERLAY, Form.INGESTED])
def test_catalogs_then_the_files_that_the_command_needs(form: Form, tmp_path: Path) -> None:
    """Every directory of every layer is listed; of the files the command and its interpreter are read, whole."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), form)
    with standin(root, tmp_path / "cvmfs") as client:
        said = run("prefetch", NAME, "--json", config=configuration(tmp_path, {HERE: tmp_path / "cvmfs"}))
        assert (said.status, said.json["problems"]) == (0, [])
        assert touched(client, "readdir") == {"", "/bin", "/etc", "/opt", "/opt/deep"}
        assert touched(client, "read") == {"/bin/tool", "/bin/shell"}
    assert said.json["complete"]
    assert (said.json["layers"], said.json["directories"], said.json["files"]) == (3, 8, 2)
    assert said.json["bytes_read"] == 2 * len(FIRST) + len(b"#!/bin/shell -x\n")


def test_none_all_and_a_list(tmp_path: Path) -> None:
    """Catalogs alone; every file that the image shows, and none that it deletes; or what a list names."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), Form.OCI)
    config, listed = configuration(tmp_path, {HERE: tmp_path / "cvmfs"}), tmp_path / "list"
    listed.write_text("# opened by the job\n/opt\n/no/such/file\n\n/etc/kept\n")
    shown = {"/bin/tool", "/bin/shell", "/etc/kept", "/etc/one", "/etc/two", "/etc/unused", "/opt/deep/file"}
    with standin(root, tmp_path / "cvmfs") as client:
        for options, files in (
            (("--files", "none"), set[str]()),
            (("--files", "all"), shown),
            (("--list", listed), {"/bin/tool", "/bin/shell", "/etc/kept", "/opt/deep/file"}),
        ):
            client.reset()
            said = run("prefetch", NAME, *options, "--json", config=config)
            assert (said.status, said.json["files"]) == (0, len(files)), said
            assert touched(client, "open") == files  # the kernel remembers what it read


def test_bytes_and_time_have_limits(tmp_path: Path) -> None:
    """What was read until then stays read; exit status 3 says that it is not all."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    config, total = configuration(tmp_path, {HERE: root}), 3 * len(FIRST) + 3 * len(SECOND) + len(THIRD)
    said = run("prefetch", NAME, "--files", "all", "--limit", "6k", "--workers", "1", "--json", config=config)
    assert said.status == 3
    assert said.json["stopped"] == "the limit of 6000 bytes"
    assert 6000 <= said.json["bytes_read"] < total
    said = run("prefetch", NAME, "--files", "all", "--rate", "2", "--timeout", "1", config=config)
    assert said.status == 3
    assert said.out.splitlines()[-1] == "stopped at the limit of 1 s"
    said = run("prefetch", NAME, "--limit", "much", config=config)
    assert said.status == 2


def test_the_rate_is_kept(tmp_path: Path) -> None:
    """Eight directories at ten a second."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"))
    config = configuration(tmp_path, {HERE: root})
    said = run("prefetch", NAME, "--files", "none", "--rate", "10", "--json", config=config)
    assert said.json["seconds"] >= 0.6


def test_a_layer_that_hangs_is_left_and_said(tmp_path: Path) -> None:
    """The others are brought in, within a few deadlines, and the command ends."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", published)
    with standin(root, tmp_path / "cvmfs") as client:
        client.fault("stall", f"{layer_path(published.layers[0])}/bin", operations=["opendir", "readdir"])
        config = configuration(tmp_path, {HERE: tmp_path / "cvmfs"}, deadline=1.0)
        began = time.monotonic()
        said = run("prefetch", NAME, "--files", "all", "--json", config=config)
        assert time.monotonic() - began < 20
        client.clear()
    assert said.status == 3
    assert any(f"layer {published.layers[0]}: timeout" in problem for problem in said.json["problems"])
    assert said.json["files"] >= 4


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """The rest is read."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", published)
    with standin(root, tmp_path / "cvmfs") as client:
        client.fault("eio", f"{layer_path(published.layers[1])}/etc/unused", operations=["read"])
        config = configuration(tmp_path, {HERE: tmp_path / "cvmfs"})
        said = run("prefetch", NAME, "--files", "all", config=config)
    assert said.status == 3
    assert f"layer {published.layers[1]}: /etc/unused: " in said.out
    assert "6 files read" in said.out


def test_without_a_config_the_command_is_not_known(tmp_path: Path) -> None:
    """A repository of DUCC keeps none: the answer says so and what to do; catalogs are listed all the same."""
    root = repository(tmp_path / "repository", image(tmp_path / "layout"), Form.DUCC)
    said = run("prefetch", NAME, "--json", config=configuration(tmp_path, {HERE: root}))
    assert (said.status, said.json["files"], said.json["directories"]) == (0, 0, 8)
    assert "--from registry, or give --list" in said.json["notes"][0]


def test_layers_that_nobody_serves_are_named(tmp_path: Path) -> None:
    """Of an image that is published in part, what is there is brought in."""
    published = image(tmp_path / "layout")
    root = repository(tmp_path / "repository", image(tmp_path / "layout", "short", layers=2))
    said = run("prefetch", published.source, "--json", config=configuration(tmp_path, {HERE: root}))
    assert (said.status, said.json["layers"]) == (3, 2)
    assert said.json["problems"][0].startswith(f"layer {published.layers[2]} is not served: absent")
