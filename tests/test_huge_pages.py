"""A program asks for huge pages once, where the kernel gives them to those who ask."""

import json
import os
import subprocess
import sys

import pytest

from oxyrec_jax import huge_pages

PROGRAM = """
import json, os, sys
from oxyrec_jax.huge_pages import restart_with_huge_pages
restart_with_huge_pages()
print(json.dumps([os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:]]))
"""


@pytest.mark.parametrize("tunables, kernel, libc, expected", [
    (None, "always [madvise] never", "glibc 2.36", True),
    ("", "always [madvise] never", "glibc 2.36", False),  # the user forbids it
    ("glibc.malloc.hugetlb=1", "always [madvise] never", "glibc 2.36", False),
    (None, "[always] madvise never", "glibc 2.36", False),  # all have them
    (None, "always madvise [never]", "glibc 2.36", False),  # nobody has
    (None, None, "glibc 2.36", False),  # a kernel without them
    (None, "always [madvise] never", "", False),  # another C library
])
def test_a_restart_is_wanted_only_where_it_gains(tmp_path, tunables, kernel, libc,
                                                 expected):
    enabled = tmp_path / "enabled"
    if kernel is not None:
        enabled.write_text(kernel)
    assert huge_pages.wanted(tunables, enabled, libc) is expected


@pytest.mark.parametrize("tunables", [None, ""])
def test_the_same_command_runs_again_in_the_same_process_and_only_once(
        tmp_path, tunables):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items()
                   if name != "GLIBC_TUNABLES"}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(program), "--k", "a b"], env=environment,
        stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    number, after, arguments = json.loads(printed)
    assert number == process.pid
    assert arguments == ["--k", "a b"]
    asked = huge_pages.wanted(tunables, huge_pages._ENABLED, huge_pages._libc())
    assert after == ("glibc.malloc.hugetlb=1" if asked else tunables)
