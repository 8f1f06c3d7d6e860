"""The scripts of a container, run by real shells: what Docker would run, whatever the config holds."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfsrepo.errors import InvalidArgument
from cvmfsrepo.tree import Entry
from publisher.flat.apptainer import environment_script, labels_json, runscript, with_apptainer
from publisher.flat.flatten import Placed, Tree
from publisher.flat.imageconfig import RunConfig, parse_run_config
from tests.examples import examples

SHELLS = [shell for shell in ("dash", "bash", "ksh", "zsh") if shutil.which(shell)]
HOSTILE = [
    "it's",
    'a"b',
    "$HOME `id` $(id) \\",
    "one\ntwo\n",
    "-n",
    "--",
    "",
    "*",
    "~",
    "{a,b}",
    "!!",
    "é€",
    "#x",
    ";id",
]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def config(**settings: Any) -> RunConfig:
    return parse_run_config(json.dumps({"config": settings}).encode())


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that gives back its arguments, each ended by a NUL."""
    program = tmp_path_factory.mktemp("show") / "show"
    program.write_text('#!/bin/sh\nfor word in "$0" "$@"; do printf \'%s\\0\' "$word"; done\n')
    program.chmod(0o755)
    return str(program)


def run_script(shell: str, script: str, arguments: Sequence[str], environment: Mapping[str, str] = {}) -> list[str]:
    command = [shell, "-c", script, "runscript", *arguments]
    variables = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(command, env=variables, capture_output=True, check=True)
    return os.fsdecode(done.stdout).split("\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("arguments", [[], HOSTILE])
@pytest.mark.parametrize(("entrypoint", "cmd"), [(True, True), (True, False), (False, True)])
def test_a_run_is_entrypoint_and_command_or_arguments(
    shell: str, arguments: list[str], entrypoint: bool, cmd: bool, show: str
) -> None:
    """Arguments take the command's place, the entrypoint stays, and no word is looked into."""
    image = {"Entrypoint": [show, *HOSTILE]} if entrypoint else {}
    own = ["c", *HOSTILE] if entrypoint else [show, *HOSTILE]
    script = runscript(config(**image, **({"Cmd": own} if cmd else {})))
    given_words = arguments if entrypoint else ([show, *arguments] if arguments else [])
    expected = [*([show, *HOSTILE] if entrypoint else []), *(given_words or (own if cmd else []))]
    assert run_script(shell, script, given_words) == expected


@settings(max_examples=examples(60), deadline=None)
@given(words=st.lists(TEXTS, max_size=4), cmd=st.lists(TEXTS, max_size=4), value=TEXTS)
def test_any_words_come_through(show: str, words: list[str], cmd: list[str], value: str) -> None:
    """Of any text, variables too."""
    image = config(Entrypoint=[show, *words], Cmd=cmd, Env=[f"A={value}"])
    assert run_script("dash", runscript(image), []) == [show, *words, *cmd]
    shown = environment_script(image) + f'exec {show} "$A"'
    assert run_script("dash", shown, [])[1:] == [value]


@pytest.mark.parametrize("shell", SHELLS)
def test_an_option_is_no_program(shell: str) -> None:
    """Bash would run `-c id` with an empty environment; an image without a program and arguments says so."""
    for script in (runscript(config()), runscript(config(Cmd=["-c", "id"])), runscript(config(Entrypoint=["-c"]))):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            run_script(shell, script, ["-c", "id"])
        assert (failed.value.returncode, failed.value.stdout) == (127, b"")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_script(shell, runscript(config()), [])
    assert failed.value.returncode == 125


def test_a_relative_program_is_found_from_the_working_directory() -> None:
    """Only where its name has a slash; other names are looked for in PATH."""
    assert "set -- /srv/app/./start x " in runscript(config(Entrypoint=["./start", "x"], WorkingDir="/srv/app"))
    assert "set -- /bin/start\n" in runscript(config(Cmd=["bin/start"]))
    assert "set -- start " in runscript(config(Entrypoint=["start"], WorkingDir="/srv/app"))


@pytest.mark.parametrize("shell", SHELLS)
def test_variables_are_the_images_or_the_callers(shell: str, show: str) -> None:
    """PATH is the image's; another one that the caller has set stays; the last of two counts; what is none is left."""
    image = config(Env=["PATH=/image", "A=$HOME 'x'\n", "B=1", "B=2", "C=image", "A.B=x", "UID=9", "EUID=9", "no"])
    script = environment_script(image) + f'exec {show} "$PATH" "$A" "$B" "$C"'
    assert run_script(shell, script, [], {"C": "caller"})[1:] == ["/image", "$HOME 'x'\n", "2", "caller"]


def test_labels_are_the_images() -> None:
    """All of them, sorted, whatever they hold."""
    assert json.loads(labels_json(config(Labels={"b": "\n\"é'", "a": ""}))) == {"a": "", "b": "\n\"é'"}
    assert json.loads(labels_json(config())) == {}


def test_configs_are_read_as_docker_wrote_them() -> None:
    """Nulls, a missing part, and a word in place of words."""
    assert parse_run_config(b"{}") == parse_run_config(b'{"config":null}') == config(Entrypoint=None, Env=None)
    assert config(Entrypoint="/bin/sh").entrypoint == ("/bin/sh",)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"config":{"Env":[1]}}', b'{"config":{"Cmd":["a\\u0000"]}}'])
def test_what_is_no_config_is_refused(content: bytes) -> None:
    """With words, and never by a crash; a NUL byte can be no argument."""
    with pytest.raises(InvalidArgument):
        parse_run_config(content)


def tree_of(*entries: Entry) -> Tree:
    return {entry.path: Placed(entry) for entry in (Entry(b"", 0o40755), *entries)}


def test_the_images_own_names_at_the_root_stay() -> None:
    """A file and a directory that are named like the links for old versions."""
    tree = with_apptainer(tree_of(Entry(b"environment", 0o100644, size=3), Entry(b"singularity", 0o40755)), config())
    assert (tree[b"environment"].entry.size, tree[b"singularity"].entry.is_directory) == (3, True)
    assert tree[b".exec"].entry.target == b".singularity.d/actions/exec"


def test_the_images_own_folder_gives_way() -> None:
    """What has the name of one of ours is replaced, whatever it is; the rest stays; nothing goes through a link."""
    below = [Entry(b".singularity.d/labels.json/x", 0o100644), Entry(b".singularity.d/env/50-own.sh", 0o100644)]
    folders = [Entry(b".singularity.d", 0o40700), Entry(b".singularity.d/labels.json", 0o40755)]
    tree = with_apptainer(tree_of(*folders, Entry(b".singularity.d/env", 0o40755), *below), config())
    assert tree[b".singularity.d"].entry.mode == 0o40755
    assert b".singularity.d/labels.json/x" not in tree
    assert b".singularity.d/env/50-own.sh" in tree
    tree = with_apptainer(tree_of(Entry(b".singularity.d", 0o120777, target=b"/etc")), config())
    assert tree[b".singularity.d"].entry.is_directory


def test_an_own_runscript_stays_where_the_config_names_no_program() -> None:
    """Somebody made such an image from one of Apptainer's."""
    own = tree_of(Entry(b".singularity.d", 0o40755), Entry(b".singularity.d/runscript", 0o100755, size=5))
    assert with_apptainer(own, config())[b".singularity.d/runscript"].entry.size == 5
    assert with_apptainer(own, config(Cmd=["x"]))[b".singularity.d/runscript"].entry.size != 5


def test_mount_points_are_added_where_nothing_is() -> None:
    """Never through a link, and never in place of something."""
    assert {b"tmp", b"var", b"var/tmp"} <= with_apptainer(tree_of(), config()).keys()
    linked = with_apptainer(tree_of(Entry(b"var", 0o120777, target=b"x"), Entry(b"tmp", 0o40700)), config())
    assert b"var/tmp" not in linked
    assert (linked[b"var"].entry.target, linked[b"tmp"].entry.mode) == (b"x", 0o40700)
