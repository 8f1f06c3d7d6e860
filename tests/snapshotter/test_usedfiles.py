"""Which files a container reads when it starts."""

import os
import posixpath
from collections.abc import Mapping, Sequence

import pytest

from cvmfsrepo.errors import DataLoss
from snapshotter.usedfiles import Process, parse_process, used_files
from tests.snapshotter.test_elf import INTERPRETER, program


class Files:
    """An image without links."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = {os.fsencode(path): content for path, content in files.items()}

    def find_file(self, path: bytes) -> bytes | None:
        plain = posixpath.normpath(b"/" + path.lstrip(b"/")).lstrip(b"/")
        return plain if plain in self.files else None

    def read(self, path: bytes) -> bytes:
        return self.files[path]

    def find_named(self, name: bytes) -> Sequence[bytes]:
        return [path for path in self.files if posixpath.basename(path) == name]

    def list_names(self, directory: bytes) -> Sequence[bytes]:
        below = [path for path in self.files if path.startswith(directory + b"/")]
        return sorted({path[len(directory) + 1 :].split(b"/")[0] for path in below})


def used(process: Process, files: Mapping[str, bytes], *listed: bytes) -> set[str]:
    return {os.fsdecode(path) for path in used_files(process, listed, Files(files))}


def test_a_program_its_interpreter_and_its_libraries() -> None:
    """Libraries from where the program says, then from LD_LIBRARY_PATH, the system's directories, or anywhere."""
    loader, files = os.fsdecode(INTERPRETER).lstrip("/"), {"opt/bin/tool": program(), "other": b"x"}
    command = Process(entrypoint=("/opt/bin/tool",), env=("LD_LIBRARY_PATH=/own",))
    every = {**files, loader: b"", "opt/lib/libone.so.1": b"", "own/libtwo.so.2": b"", "lib/libtwo.so.2": b""}
    assert used(command, every) == {"opt/bin/tool", loader, "opt/lib/libone.so.1", "own/libtwo.so.2"}
    every = {**files, "usr/lib/x86_64-linux-gnu/libone.so.1": b"", "somewhere/libtwo.so.2": b""}
    assert used(command, every) == {"opt/bin/tool", *(name for name in every if "lib" in name)}


def test_a_script_brings_its_interpreter() -> None:
    """Also the one that env looks up in PATH, and what that needs in turn."""
    files = {"run": b"#!/usr/bin/env -S python3 -u\n", "usr/bin/env": b"", "opt/python3": b"#!/bin/sh\n", "bin/sh": b""}
    assert used(Process(cmd=("/run",), env=("PATH=/opt:/bin",)), files) == set(files)


def test_a_command_is_looked_for_in_path() -> None:
    """The default one where the image sets none; words that name files count, others do not."""
    files = {"usr/bin/tool": b"", "etc/tool.conf": b"", "bin/other": b"", "tool": b""}
    assert used(Process(entrypoint=("tool", "/etc/tool.conf"), cmd=("other",)), files) == {
        "usr/bin/tool", "etc/tool.conf",
    }  # fmt: skip


def test_listed_files_count_and_loops_end() -> None:
    """Each file once."""
    files = {"a": b"#!/b\n", "b": b"#!/a\n"}
    assert list(used_files(Process(), [b"/a", b"/none"], Files(files))) == [b"a", b"b"]


def test_the_process_of_a_config() -> None:
    """Null, absent and nonsense."""
    assert parse_process(b'{"config": {"Cmd": ["a"], "Entrypoint": null}}').words == ("a",)
    assert parse_process(b"{}").words == ()
    assert parse_process(b'{"config": {"Env": ["A=1", "A=2=3"]}}').variable("A") == "2=3"
    with pytest.raises(DataLoss):
        parse_process(b'{"config": {"Cmd": "a"}}')
