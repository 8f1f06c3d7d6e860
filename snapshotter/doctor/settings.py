"""Settings of a CVMFS client: `NAME=value` lines of its files, of `cvmfs_config showconfig`, and systemctl's alike."""

import re
from collections.abc import Iterator
from pathlib import Path

_LINE = re.compile(r"^\s*(?:export\s+)?(?:readonly\s+)?([A-Za-z][A-Za-z0-9_]*)=(.*)$")
_COMMENT = re.compile(r"\s+#.*$")


def parse_settings(text: str) -> dict[str, str]:
    """The last value of each name, without quotes and comments. Shell expressions are left as they are."""
    found = filter(None, map(_LINE.match, text.splitlines()))
    return {line[1]: _COMMENT.sub("", line[2]).strip().strip("\"'") for line in found}


def setting_files(etc: Path, repository: str) -> Iterator[Path]:
    """The client's files for a repository, in the order in which it reads them; later ones win."""
    domain = repository.partition(".")[2]
    yield etc / "default.conf"
    yield from sorted((etc / "default.d").glob("*.conf"))
    yield etc / "default.local"
    for folder, name in (("domain.d", domain), ("config.d", repository)):
        yield etc / folder / f"{name}.conf"
        yield etc / folder / f"{name}.local"
