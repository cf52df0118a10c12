"""What a process for untrusted bytes gives up for the rest of its life: network, files, system calls, memory.

Each step is taken where the kernel has it, and reports whether it was. Without privileges the network is left
through a user namespace, which some containers forbid; Landlock needs Linux 5.13, seccomp Linux 3.5.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import struct
from collections.abc import Sequence
from typing import Final

# A network namespace of its own has no interface but an unconnected loopback; the user namespace is what lets a
# process without privileges have one.
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on all architectures
_BELOW_PATH, _READ_FILE, _READ_FOLDER = 1, 1 << 2, 1 << 3
_VERSION_ONLY, _NO_NEW_PRIVILEGES = 1, 38
_FILE_RIGHTS: Final = (13, 14, 15, 15, 16)
"""How many rights over files the versions 1 to 5 of Landlock know: to read, write, make, remove, run ..."""

_CONNECT_AND_BIND, _SIGNALS_AND_SOCKETS = 0b11, 0b11


def limit(kind: int, most: int) -> None:
    """Lower both limits of a resource (`resource.RLIMIT_...`) to at most `most`."""
    _, hard = resource.getrlimit(kind)
    lowest = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (lowest, lowest))


def leave_network() -> bool:
    """Whether this process was cut off the network.

    To be called before any library starts threads: a process with threads cannot change its namespaces. A
    privileged process keeps its user, so that it can read its inputs.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    return any(unshare(flags) == 0 for flags in (_NEW_NETWORK, _NEW_NETWORK | _NEW_USER))


def forbid_files(readable: Sequence[int] = ()) -> bool:
    """Whether this process can open no file from now on, neither to read nor to write (Landlock).

    What is open stays open. False also where a library has started threads, which would keep their rights.

    Args:
        readable: descriptors of files, and of folders with all below them, that can still be opened to read.
    """
    try:
        system = ctypes.CDLL(None, use_errno=True)
        if len(os.listdir("/proc/self/task")) > 1:
            return False
    except OSError:
        return False
    version = system.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_ONLY)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS[min(version, len(_FILE_RIGHTS)) - 1]) - 1
    network = _CONNECT_AND_BIND if version >= 4 else 0
    scopes = _SIGNALS_AND_SOCKETS if version >= 6 else 0
    ruleset = struct.pack("QQQ", rights, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    handle = system.syscall(_CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0)
    if handle < 0:
        return False
    try:
        failed = (
            any(_allow_reading(system, handle, descriptor) for descriptor in readable)
            or system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
            or system.syscall(_RESTRICT_SELF, handle, 0)
        )
        return not failed
    finally:
        os.close(handle)


def _allow_reading(system: ctypes.CDLL, ruleset: int, descriptor: int) -> int:
    """Add a rule for a file or folder; 0 when it was added."""
    is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    rule = struct.pack("=Qi", _READ_FILE | _READ_FOLDER if is_folder else _READ_FILE, descriptor)
    return int(system.syscall(_ADD_RULE, ruleset, _BELOW_PATH, rule, 0))
