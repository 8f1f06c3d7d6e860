"""`doctor`: what is wrong with this node, and what to do about it."""

import click

from snapshotter.cli import exits
from snapshotter.cli.apart import apart
from snapshotter.cli.options import node_options
from snapshotter.cli.output import Output, counted
from snapshotter.config import Config
from snapshotter.doctor.values import Finding


@click.command()
@click.option("--containerd", "engine", default="", metavar="PROGRAM", help="containerd's program, if not found.")
@click.option("--containerd-config", "engine_config", default="", metavar="FILE",
              help="containerd's configuration, if not where the distribution has it.")  # fmt: skip
@click.option("--containerd-version", "version", default="", metavar="VERSION",
              help="Of the containerd whose file is looked at, where its program is not here.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Let warnings count: exit status 3.")
@click.option("--quiet", is_flag=True, help="Do not show what is well.")
@node_options
@apart
def doctor(
    config: Config, output: Output, engine: str, engine_config: str, version: str, strict: bool, quiet: bool
) -> None:
    """What is wrong with this node: containerd's configuration, our socket, kernel and disk, the CVMFS client.

    It works with and without a running daemon, waits for no repository longer than its deadline, and changes nothing,
    but for a trial file that it makes and removes in the daemon's directory.
    Run it as root: some things cannot be seen otherwise.

    \b
    Exit status: 0 nothing is wrong; 3 something is (an error; with --strict a warning too).
    \b
    Examples:
      cvmfs-snapshotter doctor --quiet
      cvmfs-snapshotter doctor --containerd-config /tmp/new.toml --json | jq '.[] | select(.severity != "ok")'
    """
    from snapshotter.doctor.diagnosis import diagnose
    from snapshotter.doctor.facts import Asked, gather
    from snapshotter.engineconfig.versions import Version

    asked = Asked(engine, engine_config, Version.parse(version) if version else None)
    found = diagnose(gather(config, asked))
    shown = [finding for finding in found if finding.severity != "ok" or not quiet]
    output.show(shown, lambda: _print(output, shown))
    bad = ("error", "warning") if strict else ("error",)
    if any(finding.severity in bad for finding in found):
        click.get_current_context().exit(exits.NO)


def _print(output: Output, findings: list[Finding]) -> None:
    if findings:
        output.table(("", "CHECK", "FINDING"), [(one.severity, one.check, one.what) for one in findings])
    wrong = [finding for finding in findings if finding.severity != "ok"]
    for number, finding in enumerate(wrong, 1):
        output.line()
        output.line(f"{number}. {finding.severity}, {finding.check}: {finding.what}")
        if finding.why:
            output.line(f"   why:  {finding.why}")
        if finding.fix:
            output.line(f"   fix:  {finding.fix}")
    output.line()
    errors = sum(finding.severity == "error" for finding in wrong)
    output.line(f"{counted(errors, 'error')}, {counted(len(wrong) - errors, 'warning')}")
