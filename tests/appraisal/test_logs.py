"""Findings in words: bounded, and plain whatever others named their files."""

from attestd.appraisal.logs import MAX_TOLD, MAX_WORDS, LogAppraisal, in_words


def test_of_findings() -> None:
    assert LogAppraisal.of(7, []) == LogAppraisal(7, (), 0)
    assert LogAppraisal.of(7, [ValueError("a"), "b"]) == LogAppraisal(7, ("a", "b"), 2)


def test_a_few_are_told_and_all_are_counted() -> None:
    found = LogAppraisal.of(0, map(str, range(1000)))
    assert (len(found.findings), found.count) == (MAX_TOLD, 1000)


def test_words() -> None:
    assert in_words("a\nb\x1b[2J\u202e") == "a\\u000ab\\u001b[2J\\u202e"
    long = in_words("a" * 5000 + "b" * 5000)
    assert len(long) <= MAX_WORDS
    assert long.startswith("aaa")
    assert long.endswith("bbb")
    assert "a...b" in long
