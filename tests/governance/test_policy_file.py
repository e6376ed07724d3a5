"""One policy file: what parses, what is refused and where, what is a typo, and what would hurt the parser."""

import subprocess
import sys
import time

import cedarpy
import pytest

from attestd.errors import MalformedError
from attestd.governance import policy_file
from attestd.governance.policy_file import Policy, parse_policy_file, schema
from attestd.governance.policy_schema import DEFAULT_POLICY, SCHEMA
from attestd.governance.policy_text import MAX_POLICY_BYTES, Chunk, split_policies

ALL = "permit (principal, action, resource)"
SHA = "ab" * 32


def parse(text: str) -> tuple[Policy, ...]:
    return parse_policy_file(text.encode(), name="exec", what="policy/exec.cedar")


def when(condition: str) -> str:
    return f"{ALL} when {{ {condition} }};"


def refused(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(MalformedError) as raised:
        parse_policy_file(data, name="exec", what="policy/exec.cedar")
    message = str(raised.value)
    assert message.startswith("policy/exec.cedar: ")
    return message.removeprefix("policy/exec.cedar: ")


def test_the_default_policy() -> None:
    (policy,) = parse_policy_file(DEFAULT_POLICY, name="exec", what="policy/exec.cedar")
    assert (policy.id, policy.line, policy.forbid, policy.reason) == ("exec#all", 2, False, None)
    assert (policy.attributes, policy.named) == (frozenset(), frozenset())


def test_a_file_without_policies_permits_nothing_and_is_one() -> None:
    assert parse("// nothing\n") == ()


def test_ids_lines_and_what_is_looked_at() -> None:
    one, two = parse(
        "// first\n\n"
        '@id("one") @reason("Because.") forbid (principal in Group::"a", action, resource) // why\n'
        'when { context.tier == Tier::"vtpm" && context.artifact.ttl_s > 5 }\n'
        'unless { context.artifact has max_uses || resource in [Publisher::"p", Publisher::"q"] };\n'
        'permit (principal == User::"7", action == Action::"exec", resource is Executable in Publisher::"p");\n'
    )
    assert (one.id, one.line, one.forbid, one.reason) == ("exec#one", 3, True, "Because.")
    assert one.attributes == {"tier", "artifact.ttl_s", "artifact.max_uses"}
    assert one.named == {("Group", "a"), ("Publisher", "p"), ("Publisher", "q")}
    assert (two.id, two.line, two.forbid, two.reason) == ("exec#1", 6, False, None)
    assert two.named == {("Publisher", "p")}


def test_the_schema_is_cedar() -> None:
    assert cedarpy.validate_policies(DEFAULT_POLICY.decode(), SCHEMA.decode()).validation_passed


# Typos: what Cedar only warns of, and cedarpy does not pass on

TYPOS = (
    "context has artifct",
    "context has artifct && context.artifct.ttl_s > 5",
    "!(context has artifct)",
    "context.argc == 1 || context has artifct",
    "context.artifact has max_use && context.artifact.max_use == 1",
    "principal has name",
    'principal.hasTag("x")',
    'principal in Publisher::"x"',
    'principal != Group::"x"',
    'Group::"x" == principal',
    "principal is Group",
    "principal == resource",
    'context.tier == Userspace::"none"',
    'context.tier in [Userspace::"none"]',
    "(if context has artifct then 1 else 2) == context.argc",
    "[context has artifct].contains(true)",
    "{a: context has artifct}.a",
    '"a" == "b"',
)


@pytest.mark.parametrize("condition", TYPOS)
def test_what_can_never_be_true_is_a_typo(condition: str) -> None:
    # Cedar itself accepts each: without our check it would be a policy without effect.
    assert cedarpy.validate_policies(when(condition), schema()).validation_passed
    assert "line 3: this can never be true: " in refused(f"{ALL};\n\n{when(condition)}")


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("context.exe == 1", "attribute `exe` in context"),
        ('context.tier == Tier::"hardwere"', '`"hardwere"` is not declared'),
        ('context.uid == "0"', "not compatible"),
        ("context.argv.contains(context.argc)", "not compatible"),
        ("context.artifact.max_uses == 1", "unable to guarantee safety of access to optional attribute"),
        ('action == Action::"exek"', "unrecognized action"),
        ("context.argc + 9223372036854775808 > 0", "too large"),
        ('ip("1.2.3.400").isIpv4()', "failed to parse as IP address"),
        ('principal == User::"07"', "expected a uid in decimal"),
        ('principal == User::"root"', "expected a uid in decimal"),
        (f'resource == Executable::"{SHA[1:]}"', "expected SHA-256 in lower-case hex"),
        (f'resource == Executable::"{SHA.upper()}"', "expected SHA-256 in lower-case hex"),
        ('context.interpreters.contains(Executable::"bash")', "expected SHA-256 in lower-case hex"),
        ("context == context", "as a whole: name the attribute"),
        ("context.artifact == context.artifact", "as a whole: name the attribute"),
        ("context has artifact", "as a whole: name the attribute"),
    ],
)
def test_the_line_and_what_is_expected(condition: str, says: str) -> None:
    message = refused(f"{ALL};\n\n{when(condition)}\n{ALL};")
    assert message.startswith("line 3: "), message
    assert says in message, message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{ALL};\n\npermit (principl, action, resource);", "line 3: found an invalid variable"),
        (f"{ALL};\n{ALL};\n{when('1 +')}", "line 3: unexpected token"),
        (f"{ALL};\n{ALL}\n", "line 2: the policy does not end: expected ';'"),
        (f"{ALL};;", "line 1: "),
        (";", "line 1: "),
        ('permit (principal == User::"root", action, resource);', "line 1: User::"),
        ('permit (principal in Group::"a b", action == Action::"exek", resource);', "unrecognized action"),
        ("permit (principal == ?principal, action, resource);", "without ?principal"),
        (f'@id("a") {ALL};\n@id("a") {ALL};', "line 1: the id 'exec#a' is used twice"),
        (f'@id("0") {ALL};', "@id must begin with a letter"),
        (f'@id("") {ALL};', "@id must begin with a letter"),
        (f"@id {ALL};", "@id must begin with a letter"),
        (f'@id("a#b") {ALL};', "@id must begin with a letter"),
        (f'@id("\\u{{430}}dmin") {ALL};', "@id must begin with a letter"),
        (f'@Id("a") {ALL};', "expected @id or @reason, found @Id"),
        (f"@reason {ALL};", "@reason must be"),
        (f'@reason("\\u{{202e}}") {ALL};', "@reason must be"),
        (when('"a\nb" == context.cwd'), "line 1: a string that does not end on its line"),
        (when('context.cwd == "gr\u00fcn"'), "write it as \\u{...}"),
        ('permit (principal in Group::"\u0430dmin", action, resource);', "write it as \\u{...}"),
        ("p\u0435rmit (principal, action, resource);", "line 1: unexpected character '\\u0435'"),
        (f"// \u202e mirrored\n{ALL};", "line 1: a character in a comment that does not show"),
        (f"{ALL};\n\n// zero\u200bwidth", "line 3: a character in a comment that does not show"),
        (f"{ALL};\n\0", "line 2: unexpected character '\\x00'"),
        (f"{ALL}; # comment", "line 1: unexpected character '#'"),
        (f"\ufeff{ALL};", "unexpected character '\\ufeff'"),
    ],
)
def test_refused(text: str, says: str) -> None:
    assert says in refused(text)


def test_not_utf_8() -> None:
    assert refused(ALL.encode() + b";\n// \xff") == "line 2: not UTF-8"


def test_what_shows_is_no_typo() -> None:
    (policy,) = parse("// pr\u00fcfen\t\u2192 ok\r\n" + when('context.cwd == "/gr\\u{fc}n"'))
    assert policy.line == 2
    assert parse(when("context.artifact has on_behalf_of"))
    assert parse(when("false"))


def test_cost_of_a_pattern() -> None:
    (policy,) = parse(when('context.cwd like "/srv/*" && context.executable like "*bin*\\*x"'))
    assert policy.pattern_cost == (1 + 0) + (1 + 3)


# Bombs

BOMBS = {
    "parentheses": when("(" * 30_000 + "true" + ")" * 30_000),
    "sets": when("[" * 1000 + "1" + "]" * 1000 + " == [1]"),
    "records": when("{a:" * 1000 + "1" + "}" * 1000 + " == {a: 1}"),
    "conjunction": when("true && " * 20_000 + "true"),
    "sum": when("1+" * 20_000 + "1 == 1"),
    "if": when("if true then " * 10_000 + "true" + " else true" * 10_000),
    "members": when("context" + ".a" * 20_000),
    "has": when("context has a" + ".b" * 20_000),
    "indices": when("context" + '["a"]' * 10_000),
    "string": when(f'context.cwd == "{"a" * 5000}"'),
    "not": when("!" * 500 + "true"),
    "minus": when("-" * 500 + "1 == 1"),
    "many": f"{ALL};" * 4097,
    "large": "//" + "x" * MAX_POLICY_BYTES,
    "probes": when("context has argc && context has argc") * 2049,
    "deep": when(" && ".join(["context.argc == 1"] * 100)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    begun = time.thread_time()
    message = refused(BOMBS[name])
    assert time.thread_time() - begun < 10
    limits = (
        "deeper than",
        "more than",
        "over 4096",
        "too deeply",
        "bytes, the limit",
        "policies, the limit",
        "too many occurrences",
    )
    assert any(limit in message for limit in limits), message


def test_cedar_alone_does_not_survive_a_bomb() -> None:
    """Why the text is bounded before Cedar sees it: the process would be gone."""
    code = f"import cedarpy; cedarpy.PolicySet.from_str({BOMBS['parentheses']!r})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -11


def test_what_python_cannot_walk_is_too_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(_: str) -> str:
        return "[" * 100_000 + "]" * 100_000

    monkeypatch.setattr(policy_file, "policies_to_json_str", deep)
    assert "too deeply" in refused(f"{ALL}; // another text than in the other tests")


def test_what_only_the_whole_refuses_is_of_its_first_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(_: str) -> str:
        raise ValueError("no")

    monkeypatch.setattr(policy_file, "policies_to_json_str", always)
    assert refused(f"\n{ALL}; // and another") == "line 2: no"


def test_semicolons_in_strings_and_comments_end_nothing() -> None:
    text = f'{ALL} // ;\nwhen {{ context.cwd == ";\\";" }};\n{ALL};'
    first, second = split_policies(text.encode(), what="x")
    assert (first.line, second) == (1, Chunk(3, f"{ALL};"))
    assert [policy.line for policy in parse(text)] == [1, 3]
