"""docs/security.md: the two mounts that close the window of a link in a layer's place."""

import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import typed
from tests.mounting import needs_root

_REPOSITORY, _VIEW = "/cvmfs/unpacked.example.org", "/srv/unpacked"


@pytest.mark.root
def test_the_view_follows_no_link(tmp_path: Path) -> None:
    """As the page has them, in a mount namespace of their own: files are read through the view, a link is not."""
    needs_root()
    repository, view = tmp_path / "repository", tmp_path / "view"
    (repository / "layer").mkdir(parents=True)
    (repository / "layer/file").write_text("a file of a layer\n")
    (repository / "link").symlink_to(repository / "layer")
    view.mkdir()
    mounts = [line for page, line in typed() if page == "docs/security.md" and line.startswith("mount ")]
    assert len(mounts) == 2
    lines = [line.replace(_REPOSITORY, str(repository)).replace(_VIEW, str(view)) for line in mounts]
    looks = [f"cat {repository}/link/file {view}/layer/file", f"cat {view}/link/file || exit 40"]
    script = "\n".join(["set -e", *lines, *looks])
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (40, "a file of a layer\n" * 2), done.stderr
    assert "Too many levels of symbolic links" in done.stderr
