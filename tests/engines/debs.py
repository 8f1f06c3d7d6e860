"""Debian packages, unpacked under ``.cache/debs`` and run from there.

The tests and the demo need engines of several Debian generations side by side, on a machine that may have engines of
its own. So nothing is installed: apt gets a private state of its own, resolves and verifies the packages there, and
``dpkg-deb`` unpacks them. What every Debian has (the closure of its essential packages, above all the C library)
is not unpacked: programs run on the host's.

``python -m tests.engines.debs`` fetches every set that the tests use.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR_VARIABLE = "DEBIAN_MIRROR"
FORMAT = 2
"""Part of every directory's name: a change in how packages are unpacked makes new directories."""


class DebsError(Exception):
    """Packages cannot be had here; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Packages:
    """A set of packages that is unpacked together.

    Without ``closure`` the named packages come alone: for a program that needs nothing but the C library, and whose
    suite's libraries would not fit the host's.
    """

    suite: str
    names: tuple[str, ...]
    closure: bool = True

    @property
    def directory(self) -> Path:
        text = "\n".join([str(FORMAT), str(self.closure), *sorted(self.names)])
        return CACHE / "debs" / self.suite / f"{self.names[0]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def root(self) -> Path:
        return _unpacked(self)

    def tool(self, name: str, **extra: str) -> "Tool":
        """The program of that name, fetched if need be; ``extra`` are more environment variables for it."""
        root = self.root()
        for folder in _PROGRAM_FOLDERS:
            if (program := root / folder / name).exists():
                return Tool(program, {**environment(root), **extra})
        raise DebsError(f"program {name!r}: not in the {self.suite} packages {', '.join(self.names)}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of an unpacked root, with the environment in which it runs."""

    path: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str | Path, timeout: float = 600, cwd: Path | None = None) -> str:
        """Its standard output. A failure raises DebsError with the end of what the program said."""
        command = [str(self.path), *map(str, arguments)]
        try:
            done = subprocess.run(
                command,
                env=dict(self.environment),
                cwd=cwd,
                timeout=timeout,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise DebsError(f"command {' '.join(command)!r}: no end within {timeout} s") from error
        if done.returncode:
            said = (done.stderr + done.stdout)[-3000:]
            raise DebsError(f"command {' '.join(command)!r}: ended with {done.returncode}: {said}")
        return done.stdout


CONTAINERD = {
    "1.6": Packages("bookworm", ("containerd",)),
    "1.7": Packages("trixie", ("containerd",), closure=False),
    "2.1": Packages("forky", ("containerd",), closure=False),
}
RUNC = Packages("bookworm", ("runc",))
REGISTRY = Packages("bookworm", ("docker-registry",))
SKOPEO = Packages("bookworm", ("skopeo",))
UMOCI = Packages("bookworm", ("umoci",))
BUILDAH = Packages("bookworm", ("buildah", "runc"))
BOOTSTRAP = Packages("bookworm", ("mmdebstrap", "debootstrap"))
GO = Packages("bookworm", ("golang-go", "golang-github-containerd-containerd-dev"))
FUSE = Packages("bookworm", ("libfuse2", "fuse3"))
BUSYBOX = Packages("bookworm", ("busybox-static",), closure=False)
KUBECTL = Packages("trixie", ("kubectl",), closure=False)

ALL = (*CONTAINERD.values(), RUNC, REGISTRY, SKOPEO, UMOCI, BUILDAH, BOOTSTRAP, GO, FUSE, BUSYBOX, KUBECTL)

_PROGRAM_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin")


def unpack(suite: str, packages: Sequence[str]) -> Path:
    """The root directory that holds these packages and everything they need beyond a bare Debian."""
    return Packages(suite, tuple(packages)).root()


def environment(root: Path) -> dict[str, str]:
    """This process's environment, with the programs, libraries and Perl modules of ``root`` first."""
    programs = [str(root / folder) for folder in _PROGRAM_FOLDERS]
    libraries = [str(path) for top in ("usr/lib", "lib") for path in sorted(root.glob(f"{top}/*-linux-gnu"))]
    perl = [str(p) for glob in ("usr/share/perl5", "usr/share/perl/5.*", "usr/lib/*/perl/5.*") for p in root.glob(glob)]
    return {
        **os.environ,
        "PATH": os.pathsep.join([*programs, "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PERL5LIB": os.pathsep.join(perl),
    }


def fuse_library() -> Path:
    """What FUSE_LIBRARY_PATH must name before fusepy is imported."""
    return next(FUSE.root().glob("**/libfuse.so.2"))


def debootstrap(*arguments: str | Path) -> str:
    """Run debootstrap, which looks for its scripts where this variable says."""
    root = BOOTSTRAP.root()
    return BOOTSTRAP.tool("debootstrap", DEBOOTSTRAP_DIR=str(root / "usr/share/debootstrap")).run(*arguments)


def go_tool(*own_paths: Path) -> Tool:
    """The Go compiler with Debian's containerd sources; ``own_paths`` come first in GOPATH."""
    root = GO.root()
    gopath = os.pathsep.join(map(str, [*own_paths, root / "usr/share/gocode"]))
    return GO.tool(
        "go", GOROOT=str((root / "usr/lib/go").resolve()), GOPATH=gopath, GO111MODULE="off", GOFLAGS="",
        CGO_ENABLED="0", GOCACHE=str(CACHE / "go-build"), GOTOOLCHAIN="local",
    )  # fmt: skip


def _unpacked(packages: Packages) -> Path:
    root = packages.directory / "root"
    if root.is_dir():
        return root
    with _locked(packages.directory.with_name(f"{packages.directory.name}.lock")):
        if root.is_dir():
            return root
        apt = _Apt(packages.suite, mirror())
        for old in packages.directory.parent.glob(f"{packages.directory.name}.part-*"):
            shutil.rmtree(old)
        stage = Path(tempfile.mkdtemp(prefix=f"{packages.directory.name}.part-", dir=packages.directory.parent))
        try:
            _fill(stage, apt, packages)
            stage.chmod(0o755)
            stage.rename(packages.directory)
        except BaseException:
            shutil.rmtree(stage)
            raise
    return root


def _fill(stage: Path, apt: "_Apt", packages: Packages) -> None:
    root = stage / "root"
    root.mkdir()
    archives = stage / "archives"
    archives.mkdir()
    with _locked(apt.state / "lock"):
        wanted = apt.wanted(packages)
        apt.download(wanted, archives)
    for archive in sorted(archives.iterdir()):
        _run(["dpkg-deb", "-x", str(archive), str(root)], f"package {archive.name!r}")
    shutil.rmtree(archives)
    _localise_links(root)
    (stage / "packages").write_text("\n".join(wanted) + "\n")


def _localise_links(root: Path) -> None:
    """Point absolute links back into ``root``: packages link across top directories by absolute paths."""
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            link = Path(folder, name)
            if link.is_symlink() and (target := os.readlink(link)).startswith("/"):
                inside = root / target.lstrip("/")
                if os.path.lexists(inside):
                    link.unlink()
                    link.symlink_to(os.path.relpath(inside, folder))


@dataclass(frozen=True, slots=True)
class _Apt:
    """apt with a state of its own: its own sources, lists, empty package database, and none of the host's hooks."""

    suite: str
    mirror: str

    @property
    def state(self) -> Path:
        return CACHE / "apt" / self.suite

    def wanted(self, packages: Packages) -> list[str]:
        """``name=version`` of each package to unpack, after reading the archive's index if there is none yet."""
        if not (self.state / "fetched").exists():
            self._refresh()
        names = list(packages.names)
        try:
            found = self._closure(names)
        except DebsError:
            self._refresh()
            found = self._closure(names)
        if not packages.closure:
            return sorted(f"{name}={found[name]}" for name in names)
        everywhere = self._closure(["?essential"])
        return sorted(f"{n}={v}" for n, v in found.items() if n not in everywhere or n in names)

    def download(self, wanted: Sequence[str], into: Path) -> None:
        """Fetch and verify. A 404 means that the archive moved on since the index was read."""
        try:
            self._apt_get("download", *wanted, cwd=into)
        except DebsError:
            self._refresh()
            newer = [item.partition("=")[0] for item in wanted]
            self._apt_get("download", *newer, cwd=into)

    def _refresh(self) -> None:
        shutil.rmtree(self.state / "lists", ignore_errors=True)
        for folder in ("lists/partial", "cache/archives/partial", "etc"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        (self.state / "status").write_text("")
        (self.state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {self.mirror} {self.suite} main\n")
        (self.state / "apt.conf").write_text(self._configuration())
        self._apt_get("update")
        (self.state / "fetched").touch()

    def _configuration(self) -> str:
        own = {
            "Dir::Etc::parts": self.state / "etc", "Dir::Etc::main": "/dev/null",
            "Dir::Etc::sourcelist": self.state / "sources.list", "Dir::Etc::sourceparts": self.state / "etc",
            "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": self.state / "etc",
            "Dir::State": self.state, "Dir::State::lists": self.state / "lists",
            "Dir::State::status": self.state / "status", "Dir::Cache": self.state / "cache",
            "Acquire::Check-Valid-Until": "false", "Acquire::Languages": "none", "Acquire::Retries": "3",
            "APT::Sandbox::User": "root", "APT::Install-Recommends": "false", "APT::Get::AllowUnauthenticated": "false",
            "Acquire::GzipIndexes": "true", "Dir::Cache::srcpkgcache": "", "APT::Update::Error-Mode": "any",
        }  # fmt: skip
        return _network_configuration() + "".join(f'{key} "{value}";\n' for key, value in own.items())

    def _closure(self, names: Sequence[str]) -> dict[str, str]:
        """Name and version of these packages and of everything that apt would install with them on an empty system."""
        said = self._apt_get("-s", "install", *names)
        return dict(re.findall(r"^Inst (\S+) \((\S+) ", said, flags=re.MULTILINE))

    def _apt_get(self, *arguments: str, cwd: Path | None = None) -> str:
        thing = f"Debian suite {self.suite!r} at {self.mirror}"
        variables = {**os.environ, "APT_CONFIG": str(self.state / "apt.conf"), "LC_ALL": "C"}
        return _run(["apt-get", "-q", *arguments], thing, cwd=cwd, env=variables)


@functools.cache
def mirror() -> str:
    """The Debian archive that the host itself uses, or the one that DEBIAN_MIRROR names."""
    if named := os.environ.get(MIRROR_VARIABLE):
        return named.rstrip("/")
    for program in ("apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise DebsError(
                f"program {program!r}: not found; the engines come from Debian packages: use Debian 12 or newer"
            )
    if not KEYRING.exists():
        raise DebsError(f"keyring {str(KEYRING)!r}: not found; install debian-archive-keyring")
    said = _run(["apt-get", "update", "--print-uris", "-o", "Debug::NoLocking=1"], "apt sources of this host")
    if not (found := _debian_archive(said)):
        raise DebsError(
            f"apt sources of this host: no Debian archive among them; set {MIRROR_VARIABLE}=http://deb.debian.org/debian"
        )
    return found


def _debian_archive(uris: str) -> str | None:
    """The archive with most suites of a Debian release; others (Docker's, say) use its code name once at most."""
    suites = "bookworm|trixie|forky|sid|stable|testing|unstable"
    found = re.findall(rf"^'(\S+)/dists/(?:{suites})(?:-updates|-backports)?/InRelease'", uris, flags=re.MULTILINE)
    ranked = Counter(found).most_common()
    return max(ranked, key=lambda entry: (entry[1], entry[0].endswith("/debian")))[0] if ranked else None


def _network_configuration() -> str:
    """The host's proxies and credentials, which the private state needs too; nothing else of the host's is taken."""
    wanted = re.compile(r'^Acquire::(http|https|ftp)\b.*::\S* ".+";$')
    dump = _run(["apt-config", "dump", "Acquire"], "apt configuration of this host")
    return "".join(line + "\n" for line in dump.splitlines() if wanted.match(line))


def _run(command: Sequence[str], thing: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:", "dpkg"))] or [done.stderr]
        said = " ".join(lines)[-1500:].strip()
        raise DebsError(
            f"{thing}: {command[0]} {' '.join(command[1:4])} ended with {done.returncode}: {said};"
            f" check the network, or name another archive with {MIRROR_VARIABLE}"
        )
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, for as long as the block runs; the file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prefetch(say: Callable[[str], None] = print) -> None:
    """Fetch every set now, so that later runs need no network."""
    for packages in ALL:
        began = time.monotonic()
        root = packages.root()
        say(f"{packages.suite:9} {' '.join(packages.names):60} {time.monotonic() - began:6.1f} s  {root}")


if __name__ == "__main__":
    try:
        prefetch()
    except DebsError as error:
        sys.exit(f"error: {error}")
