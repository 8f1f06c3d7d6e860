"""`images` and `layer`: what the repositories hold, as the daemon's index knows it."""

import click

from snapshotter.admin.values import ImageFacts, LayerFacts
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, counted, moment, short, size
from snapshotter.config import Config


@click.command()
@click.argument("pattern", default="")
@click.option("--malformed", is_flag=True, help="What the index passes over, and why, in place of the images.")
@node_options
def images(config: Config, output: Output, pattern: str, malformed: bool) -> None:
    """The images that the repositories hold; PATTERN is a shell pattern of their names.

    They come from the index that the daemon keeps: no repository is asked. How old it is, `status` says.

    \b
    Example:
      cvmfs-snapshotter images '*/atlas/*'
    """
    from snapshotter.admin.asking import asked

    if malformed:
        with asked(config) as node:
            problems = [(one.name, problem) for one in config.served for problem in node.malformed(one.name)]
        found = {name: [problem for of, problem in problems if of == name] for name in dict.fromkeys(of for of, _ in problems)}  # noqa: E501  # fmt: skip
        rows = [(name, problem.path, problem.problem) for name, problem in problems]
        output.show(found, lambda: output.table(("REPOSITORY", "PATH", "PROBLEM"), rows))
        return
    with asked(config) as node:
        known = list(node.walk_images(pattern))
    columns = ("IMAGE", "REPOSITORY", ">LAYERS", "PLATFORM", "CONFIG", "FIRST SEEN", "PROBLEM")
    output.show(known, lambda: output.table(columns, map(_image, known)))


@click.command()
@click.argument("digest")
@node_options
def layer(config: Config, output: Output, digest: str) -> None:
    """A layer by its digest or diff id (sha256:...): who holds it, since when, and which images and snapshots use it.

    \b
    Example:
      cvmfs-snapshotter layer sha256:0f9fe5b8a1a1...
    """
    from snapshotter.admin.asking import asked

    with asked(config) as node:
        found = node.get_layers(digest)
    output.show(found, lambda: _print(output, found))


def _image(found: ImageFacts) -> tuple[str, ...]:
    return (
        found.reference, found.repository, str(len(found.layers)), found.platform or "-", short(found.config),
        moment(found.first_seen), found.problem or "-",
    )  # fmt: skip


def _print(output: Output, found: tuple[LayerFacts, ...]) -> None:
    for one in found:
        revision = f", revision {one.first_revision}" if one.first_revision is not None else ""
        output.facts(
            [
                ("layer", one.digest),
                ("repository", one.repository or "none: it is in use and in no index"),
                ("diff id", one.diff_id or "unknown"),
                ("size", f"{size(one.size)} compressed, {size(one.tar_size)} as a tar"),
                ("deletions", "unknown" if one.markers is None else str(one.markers)),
                ("first seen", f"{moment(one.first_seen)}{revision}"),
                ("used by", f"{counted(len(one.images), 'image')}, {counted(len(one.snapshots), 'snapshot')}"),
            ]
        )
        for name in (*one.images, *one.snapshots):
            output.line(f"  {name}")
