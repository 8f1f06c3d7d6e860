"""Generates the Python modules of every .proto file below protos/, beside it: `make protos`."""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

REPOSITORY = Path(__file__).resolve().parent.parent


def proto_files() -> list[Path]:
    """The definitions, relative to the repository's root, in a stable order."""
    return sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "protos").rglob("*.proto"))


def generate(into: Path) -> list[Path]:
    """Writes the modules below `into` and returns their paths relative to it; RuntimeError if protoc refuses.

    The include path is the repository's root, so that the modules import one another as `protos.…`:
    below `protos/containerd`, `types/mount.proto` would become an import of the standard library's `types`.
    Definitions without a service get no _grpc module.
    """
    written: list[Path] = []
    for proto in proto_files():
        outputs = ["_pb2.py", "_pb2.pyi"]
        options = [f"--python_out={into}", f"--pyi_out={into}"]
        if any(line.startswith("service ") for line in (REPOSITORY / proto).read_text().splitlines()):
            outputs.append("_pb2_grpc.py")
            options.append(f"--grpc_python_out={into}")
        include = [f"-I{REPOSITORY}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *include, *options, str(REPOSITORY / proto)]) != 0:
            raise RuntimeError(f"definition {str(proto)!r}: protoc refuses it; its own message is above")
        written += [proto.with_name(proto.stem + suffix) for suffix in outputs]
    return written


if __name__ == "__main__":
    try:
        for path in generate(REPOSITORY):
            sys.stdout.write(f"{path}\n")
    except RuntimeError as error:
        sys.exit(str(error))
