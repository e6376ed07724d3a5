"""A script's first line: read as the kernel reads it (which is asked), or refused."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.errors import MalformedError
from attestd.gate.script import FIRST_BYTES, Shebang, is_script, parse_shebang


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"#!/bin/sh\n", Shebang("/bin/sh", None, None)),
        (b"#! /bin/sh\n", Shebang("/bin/sh", None, None)),
        (b"#!\t/bin/sh -eu\necho\n", Shebang("/bin/sh", "-eu", None)),
        (b"#!/bin/sh  -e  -u \t\n", Shebang("/bin/sh", "-e  -u", None)),
        (b"#!/bin/sh", Shebang("/bin/sh", None, None)),
        (b"#!/usr/bin/env python3\n", Shebang("/usr/bin/env", None, "python3")),
        (b"#!/usr/bin/env /opt/x\n", Shebang("/usr/bin/env", None, "/opt/x")),
        (b"#!/opt/\xc3\xa4 x\n", Shebang("/opt/\u00e4", "x", None)),
        (b"\x7fELF", None),
        (b"", None),
        (b"#", None),
        (b" #!/bin/sh\n", None),
    ],
)
def test_what_a_line_asks_for(line: bytes, expected: Shebang | None) -> None:
    assert parse_shebang(line) == expected
    assert is_script(line) == (expected is not None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!bin/sh\n", "absolute path"),
        (b"#!\n", "absolute path"),
        (b"#!/bin/sh\r\n", "carriage return"),
        (b"#!/bin/sh\x00\n", "control character"),
        (b"#!/bin/\xff\n", "not UTF-8"),
        (b"#!/usr/bin/env\n", "only `env NAME`"),
        (b"#!/usr/bin/env -S python3 -u\n", "only `env NAME`"),
        (b"#!/usr/bin/env python3 -u\n", "only `env NAME`"),
        (b"#!/usr/bin/env python3\t-u\n", "only `env NAME`"),
        (b"#!/usr/bin/env A=1\n", "only `env NAME`"),
        (b"#!/usr/bin/env ./x\n", "relative path"),
        (b"#!/bin/sh " + b"x" * FIRST_BYTES + b"\n", "longer than the 256 bytes"),
    ],
)
def test_what_is_refused(line: bytes, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        parse_shebang(line)


def test_only_what_the_kernel_sees_counts() -> None:
    """A line break just within the kernel's buffer, and just beyond it."""
    fits = b"#!/bin/sh " + b"x" * (FIRST_BYTES - 11) + b"\n"
    assert len(fits) == FIRST_BYTES
    shebang = parse_shebang(fits + b"more")
    assert shebang is not None
    assert shebang.argument == "x" * (FIRST_BYTES - 11)
    with pytest.raises(MalformedError, match="longer"):
        parse_shebang(b"#!/bin/sh " + b"x" * (FIRST_BYTES - 10) + b"\n")


@pytest.mark.parametrize(
    ("shebang", "files", "argv"),
    [
        (Shebang("/bin/sh", None, None), 1, ("/bin/sh",)),
        (Shebang("/bin/sh", "-e", None), 1, ("/bin/sh", "-e")),
        (Shebang("/usr/bin/env", None, "python3"), 2, ("python3",)),
    ],
)
def test_what_it_takes_to_run(shebang: Shebang, files: int, argv: tuple[str, ...]) -> None:
    assert shebang.interpreters == files
    assert shebang.argv == argv


@pytest.mark.parametrize(
    "line",
    [
        "#!/bin/echo",
        "#! /bin/echo",
        "#!/bin/echo one",
        "#!/bin/echo  one  two ",
        "#!\t/bin/echo\tone\ttwo\t",
        "#!/bin/echo \u00e4",
    ],
)
def test_the_kernel_agrees(tmp_path: Path, line: str) -> None:
    """The kernel runs the script; echo shows what it was given."""
    script = tmp_path / "script"
    script.write_text(line + "\n")
    script.chmod(0o755)
    shown = subprocess.run([script, "last"], capture_output=True, check=True, env={}).stdout
    shebang = parse_shebang(script.read_bytes())
    assert shebang is not None
    assert shown == " ".join([*shebang.argv[1:], os.fspath(script), "last"]).encode() + b"\n"


@given(st.binary(max_size=300))
def test_no_bytes_break_it(rest: bytes) -> None:
    try:
        shebang = parse_shebang(b"#!" + rest)
    except MalformedError:
        return
    assert shebang is not None
    assert shebang.interpreter.startswith("/")
    assert "\n" not in shebang.interpreter + (shebang.argument or "")
