"""Runs `image`, `verify` and `prefetch` as a person does, with a configuration of one or several repositories."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 120.0
"""For which a command may take."""

_PROGRAM = (
    "import sys; from snapshotter.cli.{name} import {name} as command; command(prog_name='cvmfs-snapshotter {name}')"
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def configuration(directory: Path, repositories: Mapping[str, Path], **keys: object) -> Path:
    """A file with these repositories, in their order; `keys` have underscores."""
    lines = [f"root = {json.dumps(str(directory / 'state'))}", f"address = {json.dumps(str(directory / 's.sock'))}"]
    lines += [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in keys.items()]
    for name, root in repositories.items():
        lines += ["[[repositories]]", f"name = {json.dumps(name)}", f"path = {json.dumps(str(root))}"]
    path = directory / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(name: str, *arguments: object, config: Path) -> Said:
    """One command, which has to end by itself."""
    command = [sys.executable, "-c", _PROGRAM.format(name=name), *map(str, arguments), "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    return Said(done.returncode, done.stdout, done.stderr)
