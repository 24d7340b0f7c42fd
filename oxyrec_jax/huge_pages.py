"""Asks the C library for 2 MiB memory pages, which make big arrays cheaper on Linux.

XLA allocates the temporaries of a step anew each time it runs. With pages of 4 KiB the
kernel then zeroes and maps hundreds of thousands of them in every step; with 2 MiB
pages a training step on two CPU cores took 0.75 of the time (docs/results.md). The GNU
C library reads the setting only when a process starts, so a process that wants it is
replaced by itself, once.
"""

import os
import pathlib
import sys

_VARIABLE = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"  # madvise, in glibc >= 2.35; older ones ignore it
_ENABLED = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Starts this command again with huge pages, unless it is so already.

    Call it first thing in a program, before anything is opened or imported: what was
    done before is lost. It does nothing where the environment variable GLIBC_TUNABLES
    is set (set it to nothing to forbid the restart), where the C library is not GNU's,
    and where the kernel gives huge pages to all or to nobody.
    """
    if wanted(os.environ.get(_VARIABLE), _ENABLED, _libc()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]],
                  os.environ | {_VARIABLE: _SETTING})


def wanted(tunables: str | None, enabled: pathlib.Path, libc: str) -> bool:
    """Whether a restart would gain huge pages.

    Args:
      tunables: GLIBC_TUNABLES as the process has it, None where it is not set.
      enabled: the kernel's file, such as "always [madvise] never"; may be absent.
      libc: name and version of the C library, such as "glibc 2.36".
    """
    if tunables is not None or not libc.startswith("glibc"):
        return False
    try:
        return "[madvise]" in enabled.read_text()
    except OSError:
        return False


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # not a system with the GNU library
        return ""
