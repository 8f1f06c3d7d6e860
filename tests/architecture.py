"""Reads a source tree's Python files with ast and says which rules of ARCHITECTURE.md they break.

A rule is a function of one parsed file; `violations` runs all of them. tests/test_architecture.py runs it over this
repository, and over small trees that break each rule, so that a rule that sees nothing is noticed.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median

PRODUCT = ("cvmfsrepo", "snapshotter", "podmanstore", "publisher")
SOURCES = (*PRODUCT, "tests", "tools")

# Which of the project's packages a package may import, beside itself. A command line may compose the others.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "cvmfsrepo": frozenset(),
    "snapshotter": frozenset({"cvmfsrepo", "protos"}),
    "podmanstore": frozenset({"cvmfsrepo"}),
    "publisher": frozenset({"cvmfsrepo"}),
    "tools": frozenset(),
    "tests": frozenset({*PRODUCT, "protos", "tools"}),
}
OWN = frozenset({*MAY_IMPORT, "protos", "config"})

_GRPC = (
    *("snapshotter/service.py", "snapshotter/convert.py", "snapshotter/server.py", "snapshotter/client.py"),
    *("snapshotter/engine.py", "snapshotter/pulse.py"),
    *("snapshotter/admin/service.py", "snapshotter/admin/convert.py", "snapshotter/admin/client.py"),
)
_XATTR = ("cvmfsrepo/xattrs.py", "cvmfsrepo/standin.py")
_PROCESS = (
    *("publisher/transactions/cvmfs.py", "publisher/registry/programs.py"),
    *("snapshotter/engineconfig/program.py", "snapshotter/cli/apart.py"),
)

# The edges: what touches the world, by module or by function, and the only product files that may.
EDGES: Mapping[str, tuple[str, ...]] = {
    "grpc": _GRPC,
    "google": _GRPC,
    "protos": _GRPC,
    "sqlite3": ("snapshotter/metastore.py", "snapshotter/database.py", "snapshotter/index/database.py"),
    "fuse": ("cvmfsrepo/standin.py",),
    "requests": ("publisher/registry/wire.py",),
    "prometheus_client": ("snapshotter/metrics.py", "publisher/metrics.py"),
    "xattr": _XATTR,
    **dict.fromkeys(("os.getxattr", "os.setxattr", "os.listxattr", "os.removexattr"), _XATTR),
    "subprocess": _PROCESS,
    "multiprocessing": _PROCESS,
    **dict.fromkeys(("os.system", "os.popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp"), _PROCESS),
    **dict.fromkeys(("os.execv", "os.execve", "os.execvp", "os.execvpe", "os.spawnv", "os.spawnve"), _PROCESS),
    **dict.fromkeys(("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"), _PROCESS),
}

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MEDIAN_FUNCTION = 15
LONG_WITHOUT_DOCSTRING = 12

# How often a file may catch everything without raising it on.
BLIND_EXCEPTS: Mapping[str, int] = {
    "snapshotter/service.py": 1,  # the interceptor's last line
    "publisher/unpacking/ahead.py": 1,  # a thread's error, kept for whoever takes the next piece
    "cvmfsrepo/access.py": 1,  # a worker thread's error, kept for the caller that waits for it
}

# Files that decode by type in a function: the types were looked at at import, or one thread alone decodes.
CONVERTING = ("cvmfsrepo/oci.py", "snapshotter/admin/convert.py", "snapshotter/config.py")

_BAD_MODULE = re.compile(r"(^|_)(utils?|helpers?|managers?|common|misc)(_|$)")
_BAD_NAME = re.compile(r"^_*(handle|do)_[a-z]|[Mm]anagers?(_|$)|[Hh]elpers?(_|$)|[Uu]tils?(_|$)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed file; `name` is its path from the root, with slashes; `nodes` is its whole tree, walked once."""

    name: str
    tree: ast.Module
    nodes: Sequence[ast.AST]
    lines: int

    @property
    def package(self) -> str:
        return self.name.split("/")[0]

    @property
    def is_product(self) -> bool:
        return self.package in PRODUCT

    @property
    def is_cli(self) -> bool:
        return self.name.endswith("/cli.py") or "/cli/" in self.name

    def functions(self) -> Iterator[Function]:
        """Every function, nested ones and methods too."""
        return (node for node in self.nodes if isinstance(node, Function))


def walk_sources(root: Path) -> Iterator[Path]:
    """The project's own Python files, from the root; generated ones excepted."""
    paths = chain.from_iterable(sorted((root / package).rglob("*.py")) for package in SOURCES)
    return (path.relative_to(root) for path in paths)


def read_source(root: Path, path: Path) -> Source:
    """One of them."""
    text, name = (root / path).read_text(), path.as_posix()
    tree = ast.parse(text, name)
    return Source(name, tree, tuple(ast.walk(tree)), text.count("\n"))


def violations(root: Path) -> list[str]:
    """Each as `file:line: what is wrong`, in the order of the files."""
    sources = [read_source(root, path) for path in walk_sources(root)]
    found = [f"{source.name}:{problem}" for source in sources for rule in RULES for problem in rule(source)]
    found += [f"{path.relative_to(root)}:1: code in config/" for path in sorted((root / "config").rglob("*.py"))]
    lengths = [length(function) for source in sources if source.is_product for function in source.functions()]
    if lengths and median(lengths) > MEDIAN_FUNCTION:
        found.append(f"median length of a function is {median(lengths)} lines: more than {MEDIAN_FUNCTION}")
    return found


def length(function: Function) -> int:
    """Lines from `def` to the last one."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, relative imports spelled out, `from a import b` as a.b."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = source.name.split("/")[: -node.level] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def used(source: Source) -> Iterator[tuple[int, str]]:
    """What is imported, and every `module.attribute` that is mentioned."""
    yield from imported(source)
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def imports_point_one_way(source: Source) -> Iterator[str]:
    """Readers and writers know the vocabulary, never each other; nothing that ships knows the tests."""
    allowed = {source.package, *MAY_IMPORT[source.package]} | ({*PRODUCT} if source.is_cli else set())
    for line, name in imported(source):
        top = name.split(".")[0]
        if top in OWN and top not in allowed:
            yield f"{line}: imports {name}: {source.package} may import {sorted(allowed)}"


def edges_are_named_files(source: Source) -> Iterator[str]:
    """What touches the world is in the files that are listed for it."""
    if not source.is_product:
        return
    for line, name in used(source):
        for edge, files in EDGES.items():
            if (name == edge or name.startswith(f"{edge}.")) and source.name not in files:
                yield f"{line}: uses {name}: only {', '.join(files)} may"


def imports_are_static(source: Source) -> Iterator[str]:
    """An import that ast does not see would escape the two rules above."""
    for line, name in used(source):
        if source.is_product and name.startswith("importlib.import_module"):
            yield f"{line}: imports at run time"
    for node in source.nodes:
        if source.is_product and isinstance(node, ast.Name) and node.id == "__import__":
            yield f"{node.lineno}: imports at run time"


def nothing_is_long(source: Source) -> Iterator[str]:
    """A file and a function that can be held in the head."""
    if source.lines >= LONGEST_FILE:
        yield f"1: {source.lines} lines: a file has less than {LONGEST_FILE}"
    for function in source.functions():
        if length(function) > LONGEST_FUNCTION:
            yield f"{function.lineno}: {function.name} has {length(function)} lines: more than {LONGEST_FUNCTION}"


def everything_is_annotated(source: Source) -> Iterator[str]:
    """Each parameter but a method's first, and each result."""
    methods = {
        id(function)
        for node in source.nodes
        if isinstance(node, ast.ClassDef)
        for function in node.body
        if isinstance(function, Function) and "staticmethod" not in {ast.unparse(d) for d in function.decorator_list}
    }
    for function in source.functions():
        given = function.args
        positional = [*given.posonlyargs, *given.args][1 if id(function) in methods else 0 :]
        extra = [argument for argument in (given.vararg, given.kwarg) if argument]
        for argument in (*positional, *given.kwonlyargs, *extra):
            if argument.annotation is None:
                yield f"{function.lineno}: {function.name}: parameter {argument.arg} has no annotation"
        if function.returns is None:
            yield f"{function.lineno}: {function.name}: the result has no annotation"


def public_things_have_docstrings(source: Source) -> Iterator[str]:
    """Modules, public classes, public functions of more than a few lines, and every test."""
    if ast.get_docstring(source.tree) is None:
        yield "1: the module has no docstring"
    for node in source.nodes:
        if not isinstance(node, Function | ast.ClassDef) or ast.get_docstring(node) is not None:
            continue
        long = isinstance(node, ast.ClassDef) or length(node) > LONG_WITHOUT_DOCSTRING
        if node.name.startswith("test_") or (source.is_product and long and not node.name.startswith("_")):
            yield f"{node.lineno}: {node.name} has no docstring"


def names_say_something(source: Source) -> Iterator[str]:
    """No utils, helpers and managers, no handle_ and do_: such names fit everything."""
    stem = source.name.rsplit("/", 1)[-1].removesuffix(".py")
    if _BAD_MODULE.search(stem):
        yield f"1: module {stem}: the name fits everything"
    for node in source.nodes:
        if isinstance(node, Function | ast.ClassDef) and _BAD_NAME.search(node.name):
            yield f"{node.lineno}: {node.name}: the name fits everything"


def no_blind_except(source: Source) -> Iterator[str]:
    """`except Exception` hides bugs; BaseException is caught only to undo something and raise it on."""
    blind = [node for node in source.nodes if isinstance(node, ast.ExceptHandler) and _is_blind(node)]
    for node in blind[BLIND_EXCEPTS.get(source.name, 0) :]:
        yield f"{node.lineno}: catches everything"


def _is_blind(handler: ast.ExceptHandler) -> bool:
    kinds = {"BaseException"} if handler.type is None else {ast.unparse(handler.type)}
    if isinstance(handler.type, ast.Tuple):
        kinds = {ast.unparse(kind) for kind in handler.type.elts}
    raises_on = any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))
    return "Exception" in kinds or ("BaseException" in kinds and not raises_on)


def decoders_are_made_at_import(source: Source) -> Iterator[str]:
    """msgspec crashes where several threads look at a Struct for the first time at once, so one thread has to do it:
    a Decoder at the top of the module. `convert` is left to files that have made one for each type."""
    if not source.is_product or source.name in CONVERTING:
        return
    for function in source.functions():
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)).startswith("msgspec."):
                typed = name.endswith(".decode") and any(keyword.arg == "type" for keyword in node.keywords)
                if typed or name.endswith((".Decoder", ".convert")):
                    yield f"{node.lineno}: {name}: make a Decoder at the top of the module"


RULES: tuple[Callable[[Source], Iterator[str]], ...] = (
    imports_point_one_way,
    edges_are_named_files,
    imports_are_static,
    nothing_is_long,
    everything_is_annotated,
    public_things_have_docstrings,
    names_say_something,
    no_blind_except,
    decoders_are_made_at_import,
)
