"""A recipe is read whole, or refused with every problem at its line and column."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.wishes.recipe import RecipeError, parse_recipe
from publisher.wishes.wish import Wish

GOOD = b"""version: 1
user: somebody
cvmfs_repo: unpacked.example.org
output_format: '$(scheme)://r.example/thin/$(image)'
input:
  - 'https://r.example/library/one:1'
  - 'http://r.example:5000/atlas/*:22*'
  - 'https://r.example/library/one:1'
cvmfs-publisher:
  platforms: [linux/amd64, linux/arm64]
  expire-days: 30
  flat: no
"""


def test_a_recipe_of_ducc_with_our_keys() -> None:
    """Duplicates are folded and thin images passed over, each with a word that says where."""
    recipe = parse_recipe(GOOD, "r.yaml")
    assert [str(w) for w in recipe.wishes] == ["https://r.example/library/one:1", "http://r.example:5000/atlas/*:22*"]
    assert [p.architecture for p in recipe.options.platforms] == ["amd64", "arm64"]
    assert (recipe.options.expire_days, recipe.options.flat, recipe.options.podman_store) == (30, False, None)
    assert [note.split(": ")[0] for note in recipe.notes] == ["r.yaml:4:16", "r.yaml:8:5"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", ["1:1"]),
        ("- a", ["1:1"]),
        ("version: 2\ninput: []", ["1:10"]),
        ("version: 1\ninpt: []", ["1:1", "2:1"]),
        ("version: 1\nversion: 1\ninput: []", ["2:1"]),
        ("version: 1\ninput: x", ["2:8"]),
        ("version: 1\ninput:\n - r.example/a:1\n - [a]\n - https://r.example/A:1", ["3:4", "4:4", "5:4"]),
        ("version: 1\ninput: []\ncvmfs-publisher: {flat: maybe, platforms: [x], expire-days: -1, z: 1}",
         ["3:25", "3:44", "3:61", "3:65"]),
        ("version: 1\ninput: [", ["2:9"]),
        ("a: *b", ["1:4"]),
        ("\x01", ["1:1"]),
        ("[" * 5000, ["1:1"]),
    ],
)  # fmt: skip
def test_every_problem_has_its_place(text: str, places: list[str]) -> None:
    """All at once, in the order of the file."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text.encode(), "f")
    assert [":".join(line.split(":")[1:3]) for line in caught.value.lines] == places


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("docker.io/debian:12", "docker.io/library/debian:12"),
        ("docker.io/debian:1*", "docker.io/library/debian:1*"),
        (f"docker.io/debian@sha256:{'a' * 64}", f"docker.io/library/debian@sha256:{'a' * 64}"),
        ("docker.io/group/image:1", "docker.io/group/image:1"),
        ("docker.io/deb*:1", "docker.io/deb*:1"),
        ("r.example/debian:12", "r.example/debian:12"),
    ],
)
def test_images_of_docker_hub_itself(text: str, meant: str) -> None:
    """Are in its `library`, where every client looks for them: Docker Hub has no other."""
    assert str(Wish.parse(f"https://{text}")) == f"https://{meant}"


def test_a_near_name_is_offered() -> None:
    """A key with a slip of the pen is told apart from one that nobody knows."""
    with pytest.raises(RecipeError, match="did you mean input"):
        parse_recipe(b"version: 1\nimput: []", "f")


def test_aliases_cost_nothing() -> None:
    """Nodes that multiply by aliases are never made into values."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    with pytest.raises(RecipeError):
        parse_recipe("\n".join(lines).encode(), "f")


@given(st.one_of(st.binary(max_size=200), st.text(alphabet=":-[]{}&*!'\"\n #https/v1input@,|>%", max_size=80)))
def test_nothing_makes_it_fail_otherwise(content: bytes | str) -> None:
    """Whatever the bytes, there is a recipe or a RecipeError."""
    try:
        parse_recipe(content if isinstance(content, bytes) else b"version: 1\ninput:\n" + content.encode(), "f")
    except RecipeError:
        pass
