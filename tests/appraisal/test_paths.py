"""Path patterns: what they mean, and that no name makes them slow."""

import time

import pytest

from attestd.appraisal.paths import kernel_path, parse_pattern
from attestd.errors import MalformedError


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/usr/bin/ls", ["/usr/bin/ls"], ["/usr/bin/lsx", "/usr/bin", "/usr/bin/ls/x", "ls"]),
        ("/usr/bin/*", ["/usr/bin/ls", "/usr/bin/"], ["/usr/bin", "/usr/bin/a/b", "/usr/sbin/ls"]),
        ("/usr/**", ["/usr/a", "/usr/a/b/c", "/usr/"], ["/usr", "/usrx/a", "/opt/a"]),
        ("/**", ["/a", "/a/b"], ["a"]),
        (
            "/lib/*/x.so.*",
            ["/lib/a/x.so.1", "/lib//x.so."],
            ["/lib/x.so.1", "/lib/a/b/x.so.1", "/lib/a/x.so"],
        ),
        ("/a*b*c", ["/abc", "/aXbYc", "/abbc", "/abcbc"], ["/acb", "/ab", "/abcd", "/ac"]),
        ("/a*a", ["/aa", "/aaa", "/aba"], ["/a", "/ab"]),
        ("/*/log/**", ["/var/log/x", "/var/log/x/y"], ["/var/log", "/var/lib/log/x"]),
        ("/My Files/*", ["/My_Files/x"], ["/My Files/x"]),
        ("kexec-cmdline", ["kexec-cmdline"], ["/kexec-cmdline"]),
        ("*", ["boot_aggregate", ""], ["/a"]),
    ],
)
def test_patterns(pattern, matching, other):
    parsed = parse_pattern(pattern)
    assert [path for path in matching if not parsed.matches(path.encode())] == []
    assert [path for path in other if parsed.matches(path.encode())] == []


@pytest.mark.parametrize("pattern", ["", "/a/**/b", "/a**", "/**b", "/a\0", "/" + "a" * 1024, "***"])
def test_malformed(pattern):
    with pytest.raises(MalformedError, match="path pattern"):
        parse_pattern(pattern)


def test_the_kernel_writes_no_spaces():
    assert kernel_path("/a b/\u00e9") == "/a_b/\u00e9".encode()


def test_names_made_to_be_slow():
    pattern = parse_pattern("/" + "*a" * 500)
    start = time.thread_time()
    for _ in range(50):
        assert not pattern.matches(b"/" + b"a" * 4000 + b"b")
        assert not pattern.matches(b"/" + b"ab" * 400)
    assert time.thread_time() - start < 5
