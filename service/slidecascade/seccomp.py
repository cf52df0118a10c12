"""A list of the system calls that a process may make, for the rest of its life (seccomp, Linux on x86-64 and Arm).

The filter is a program of the classic packet filter (linux/filter.h) over `struct seccomp_data`: number of the
call, architecture, and six arguments of 64 bits. A call that is not in the list fails with EPERM. Numbers are
those of the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from typing import Final

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NOT_PERMITTED, _NOT_IMPLEMENTED = 1, 38
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_SET_SECCOMP, _NO_NEW_PRIVILEGES, _FILTER = 22, 38, 2
_THREAD: Final = 0x00010000
_DUPLICATE: Final = 1030  # F_DUPFD_CLOEXEC, which mmap uses
_DESCRIPTOR_COMMANDS: Final = (1, 2, 3, 5, 6)  # F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK


_FREE: Final = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "ppoll": (271, 73),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "restart_syscall": (219, 128),
    "getcpu": (309, 168),
    "pread64": (17, 67),
}
"""Memory, threads, clocks and what is open already, whatever the arguments: nothing opens a file or a socket, or
starts a process. Each with its number on x86-64 and on Arm."""

_READING: Final = {
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getdents64": (217, 61),
    "fadvise64": (221, 223),
}
"""What looks at files and folders besides: which ones is for Landlock to say."""

_OLD_READING: Final = {"stat": 4, "lstat": 6, "access": 21, "readlink": 89}
"""Calls that x86-64 has besides, and Arm has not."""

_CHANGES_FILES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
"""Flags of which an open file may have none; those of a file without a name need one of the first two."""

_LOOKED_AT: Final = {
    "clone": (56, 220),
    "tgkill": (234, 131),
    "fcntl": (72, 25),
    "prlimit64": (302, 261),
    "clone3": (435, 435),
    "openat": (257, 56),
}
"""Calls that depend on their arguments."""

_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Place in the tables above, and the kernel's name (linux/audit.h)."""


def filter_calls(*, reads_files: bool = False) -> bool:
    """Leave this thread, and those it starts, only what decoding needs; False where the kernel cannot.

    Open files, sockets and memory can be used, and threads be started. Files, sockets and processes cannot be
    opened or started, other processes not be signalled, and limits not be raised. One that `reads_files` can open
    them to read, and nothing else.
    """
    if platform.machine() not in _ARCHITECTURES:
        return False
    program = b"".join(_program(*_ARCHITECTURES[platform.machine()], os.getpid(), reads_files))
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return False
    failed = prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(_SET_SECCOMP, _FILTER, header, 0, 0)
    return not failed


def _program(column: int, architecture: int, pid: int, reads_files: bool) -> Iterator[bytes]:
    number = {name: numbers[column] for name, numbers in _LOOKED_AT.items()}
    yield _step(_LOAD, 0, 0, _ARCHITECTURE_AT)
    yield _step(_JUMP_EQUAL, 1, 0, architecture)
    yield _step(_RETURN, 0, 0, _KILL)
    yield _step(_LOAD, 0, 0, _NUMBER_AT)
    for numbers in _FREE.values():
        yield _step(_JUMP_EQUAL, 0, 1, numbers[column])
        yield _step(_RETURN, 0, 0, _ALLOW)
    if reads_files:
        free = [numbers[column] for numbers in _READING.values()]
        for free_number in (*free, *(_OLD_READING.values() if column == 0 else ())):
            yield _step(_JUMP_EQUAL, 0, 1, free_number)
            yield _step(_RETURN, 0, 0, _ALLOW)
        yield from _unless(number["openat"], argument=2, bits=_CHANGES_FILES)
        # Databases lock what they read, and look at descriptors.
        for command in _DESCRIPTOR_COMMANDS:
            yield from _also(number["fcntl"], argument=1, value=command)
    # The C library then uses clone, whose flags can be seen.
    yield _step(_JUMP_EQUAL, 0, 1, number["clone3"])
    yield _step(_RETURN, 0, 0, _FAIL | _NOT_IMPLEMENTED)
    yield from _when(number["clone"], argument=0, test=_JUMP_ANY_BIT, value=_THREAD)
    yield from _when(number["tgkill"], argument=0, test=_JUMP_EQUAL, value=pid)
    yield from _when(number["fcntl"], argument=1, test=_JUMP_EQUAL, value=_DUPLICATE)
    # Limits are read, not set: the pointer to new ones is null in both its halves.
    yield _step(_JUMP_EQUAL, 0, 5, number["prlimit64"])
    yield _step(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * 2)
    yield _step(_JUMP_EQUAL, 0, 3, 0)
    yield _step(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * 2 + 4)
    yield _step(_JUMP_EQUAL, 0, 1, 0)
    yield _step(_RETURN, 0, 0, _ALLOW)
    yield _step(_RETURN, 0, 0, _FAIL | _NOT_PERMITTED)


def _when(number: int, *, argument: int, test: int, value: int) -> Iterator[bytes]:
    """Allow the call `number` if the lower half of `argument` passes `test`; any other call goes on."""
    yield _step(_JUMP_EQUAL, 0, 4, number)
    yield _step(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument)
    yield _step(test, 0, 1, value)
    yield _step(_RETURN, 0, 0, _ALLOW)
    yield _step(_RETURN, 0, 0, _FAIL | _NOT_PERMITTED)


def _also(number: int, *, argument: int, value: int) -> Iterator[bytes]:
    """Allow the call `number` if the lower half of `argument` is `value`; else it, and any other call, goes on."""
    yield _step(_JUMP_EQUAL, 0, 4, number)
    yield _step(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument)
    yield _step(_JUMP_EQUAL, 0, 1, value)
    yield _step(_RETURN, 0, 0, _ALLOW)
    yield _step(_LOAD, 0, 0, _NUMBER_AT)


def _unless(number: int, *, argument: int, bits: int) -> Iterator[bytes]:
    """Allow the call `number` if the lower half of `argument` has none of `bits`; any other call goes on."""
    yield _step(_JUMP_EQUAL, 0, 4, number)
    yield _step(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument)
    yield _step(_JUMP_ANY_BIT, 1, 0, bits)
    yield _step(_RETURN, 0, 0, _ALLOW)
    yield _step(_RETURN, 0, 0, _FAIL | _NOT_PERMITTED)


def _step(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
