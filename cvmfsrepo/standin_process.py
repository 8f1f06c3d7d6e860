"""What the stand-in's process owes the machine: it ends when it should, and leaves no mount behind; and the two things
that it must ask of the kernel past libfuse2.
"""

import ctypes
import os
import select
import signal
import threading
from pathlib import Path

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MNT_DETACH = 2
MS_REMOUNT, MS_RELATIME = 0x20, 1 << 21
READ_ONLY_NOSUID_NODEV = 1 | 2 | 4
PARALLEL_DIROPS = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def end_on_signal(mountpoint: Path) -> None:
    """Detach the mount, then end. libfuse's own handlers come after the mount: a signal between would leave it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # every later thread inherits this; sigwait takes them

    def leave() -> None:
        signal.sigwait(ENDING)
        _libc.umount2(os.fsencode(mountpoint), MNT_DETACH)
        os._exit(0)  # not sys.exit: that would leave the other threads, and so the connection, alive

    threading.Thread(target=leave, name="ending", daemon=True).start()


def end_with_parent(pid: int) -> None:
    """End when that process ends, however it does: a killed test run leaves no mount behind."""
    parent = os.pidfd_open(pid)

    def follow() -> None:
        select.select([parent], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="parent", daemon=True).start()


def forget_names(mountpoint: Path) -> None:
    """Make the kernel forget the names that it remembers and nobody uses, above all those that did not exist. A real
    client names each of them; fusepy has no way to do so, and a remount without any change drops them all. A name in
    use (open, mounted, a working directory) and those above it stay until their time is over, but only for a stat."""
    flags = ctypes.c_ulong(MS_REMOUNT | MS_RELATIME | READ_ONLY_NOSUID_NODEV)
    if _libc.mount(None, os.fsencode(mountpoint), None, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, f"remount of {str(mountpoint)!r}: {os.strerror(number)}; is it still mounted?")


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_Send = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Vector), ctypes.c_size_t)
_kept: list[object] = []


def ask_for_parallel_lookups(libfuse: ctypes.CDLL) -> None:
    """To be called from the operation `init`: the answer that libfuse then gives to the kernel gets one flag more.

    Without it the kernel takes the lookups and listings of one directory one by one, and one that stalls blocks the
    whole directory, for the root's the whole mount. A real client sets it through libfuse3; libfuse2, which fusepy
    needs, is older than the flag. So the `send` of its channel (the second of the three functions with which
    struct fuse_chan begins; libfuse 2.9.9 is the last) is replaced for the length of one answer.
    """
    libfuse.fuse_get_session.restype = libfuse.fuse_session_next_chan.restype = ctypes.c_void_p
    session = libfuse.fuse_get_session(ctypes.c_void_p(libfuse.fuse_get_context().contents.fuse))
    channel = libfuse.fuse_session_next_chan(ctypes.c_void_p(session), None)
    slot = ctypes.c_void_p.from_address(channel + ctypes.sizeof(ctypes.c_void_p))
    original = slot.value
    assert original

    def send(channel: int, vectors: "ctypes._Pointer[_Vector]", count: int) -> int:
        slot.value = original
        flags = ctypes.c_uint32.from_address(vectors[1].base + 12)  # struct fuse_init_out: three numbers, the flags
        flags.value |= PARALLEL_DIROPS
        sent: int = _Send(original)(channel, vectors, count)
        return sent

    replacement = _Send(send)
    _kept.append(replacement)  # C does not count references
    slot.value = ctypes.cast(replacement, ctypes.c_void_p).value
