"""A process whose kernel does not have some call: a seccomp filter answers ENOSYS. `python -m` tells what is opened."""

import ctypes
import errno
import json
import os
import struct
import sys
from pathlib import Path

from cvmfsrepo.contained import holder_of, listed_directory, opened_file
from cvmfsrepo.errors import DataLoss

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse(call: int) -> None:
    """From now on this process and its children do not have the call."""
    steps = [(_LOAD, 0, 0, 0), (_IF_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.c_char_p(program), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def outcome(root: Path, path: Path) -> str:
    """What stands at a path, as it is opened; or the error."""
    try:
        with holder_of(root, path) as (directory, name):
            if os.path.isdir(f"/proc/self/fd/{directory}/{name}"):
                with listed_directory(root, path) as listed:
                    return " ".join(sorted(os.listdir(listed)))
        with opened_file(root, path) as file:
            return file.read().decode()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except (DataLoss, ValueError) as error:
        return type(error).__name__


def main() -> None:
    root, refused, *paths = sys.argv[1:]
    if refused:
        refuse(int(refused))
    descriptors = len(os.listdir("/proc/self/fd"))
    print(json.dumps([outcome(Path(root), Path(path)) for path in paths]))
    assert len(os.listdir("/proc/self/fd")) == descriptors


if __name__ == "__main__":
    main()
