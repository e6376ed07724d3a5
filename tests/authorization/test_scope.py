import pytest

from attestd.authorization.issue import resource
from attestd.authorization.pattern import ArgForm
from attestd.authorization.scope import (
    ScopeMismatch,
    match_argv,
    match_cwd,
    match_env,
    match_inputs,
    match_uid,
)
from attestd.authorization.statement import Env
from attestd.errors import VerificationError
from tests.authorization.builders import sha256

PATTERNS = ("deploy", ArgForm(one_of=("prod", "stage")), ArgForm(bounds=(1, 3)))
ENV = Env(pass_=("LANG",), set={"PATH": "/bin", "TZ": "UTC"})
PLAN = resource("/srv/plan", sha256("plan"))


def test_a_mismatch_is_a_verification_error():
    assert issubclass(ScopeMismatch, VerificationError)


@pytest.mark.parametrize("argv", [["deploy", "prod", "1"], ["deploy", "stage", "3"]])
def test_argv_within_the_scope(argv):
    match_argv(PATTERNS, argv)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "argv: expected 3 arguments, found 0, the next one 'deploy'"),
        (["deploy", "prod"], "argv: expected 3 arguments, found 2, the next one an integer from 1 to 3"),
        (["deploy", "prod", "1", "-x"], "argv: expected 3 arguments, found 4, the first too many '-x'"),
        (["/deploy", "prod", "1"], "argv[0]: expected 'deploy', found '/deploy'"),
        (["deploy", "dev", "1"], "argv[1]: expected one of 'prod', 'stage', found 'dev'"),
        (["deploy", "prod", "4", "5"], "argv[2]: expected an integer from 1 to 3, found '4'"),
        (["deploy", "\x1b[2J", "1"], r"argv[1]: expected one of 'prod', 'stage', found '\x1b[2J'"),
    ],
)
def test_argv_outside_the_scope(argv, sentence):
    with pytest.raises(ScopeMismatch) as raised:
        match_argv(PATTERNS, argv)
    assert str(raised.value) == sentence


def test_no_patterns_allow_no_arguments():
    with pytest.raises(ScopeMismatch):
        match_argv((), ["x"])


def test_cwd():
    match_cwd("/srv", "/srv")
    with pytest.raises(ScopeMismatch, match="working directory: expected '/srv', found '/srv/'"):
        match_cwd("/srv", "/srv/")


def test_uid():
    match_uid(1001, 1001)
    with pytest.raises(ScopeMismatch, match="user: expected uid 1001, found uid 0"):
        match_uid(1001, 0)


@pytest.mark.parametrize("passed", [{}, {"LANG": "C"}, {"LANG": ""}])
def test_env_within_the_scope(passed):
    match_env(ENV, {"PATH": "/bin", "TZ": "UTC", **passed})


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, "environment: expected PATH='/bin', found no PATH"),
        ({"PATH": "/bin"}, "environment: expected TZ='UTC', found no TZ"),
        ({"PATH": "/tmp", "TZ": "UTC"}, "environment: expected PATH='/bin', found PATH='/tmp'"),
        ({"PATH": "/bin", "TZ": "UTC", "A": "b"}, "environment: 'A' is neither in env.set nor in env.pass"),
        (
            {"PATH": "/bin", "TZ": "UTC", "lang": "C"},
            "environment: 'lang' is neither in env.set nor in env.pass",
        ),
    ],
)
def test_env_outside_the_scope(found, sentence):
    with pytest.raises(ScopeMismatch) as raised:
        match_env(ENV, found)
    assert str(raised.value) == sentence


def test_inputs_within_the_scope():
    match_inputs((), {})
    match_inputs((PLAN,), {"/srv/plan": sha256("plan")})


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({}, f"input '/srv/plan': expected sha256 {sha256('plan')}, found no such file"),
        (
            {"/srv/plan": sha256("other")},
            f"input '/srv/plan': expected sha256 {sha256('plan')}, found sha256 {sha256('other')}",
        ),
        (
            {"/srv/plan": sha256("plan"), "/srv/more": sha256("more")},
            "input '/srv/more': the artifact does not pin it",
        ),
    ],
)
def test_inputs_outside_the_scope(found, sentence):
    with pytest.raises(ScopeMismatch) as raised:
        match_inputs((PLAN,), found)
    assert str(raised.value) == sentence
