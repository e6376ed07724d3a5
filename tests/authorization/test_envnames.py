import pytest

from attestd.authorization.envnames import refusal


@pytest.mark.parametrize(
    "name", ["LANG", "LC_ALL", "TZ", "TERM", "CI", "NODE_ENV", "a", "_", "GIT_AUTHOR_NAME"]
)
def test_ordinary_variables_may_be_passed_and_set(name):
    assert refusal(name, fixed=False) is None
    assert refusal(name, fixed=True) is None


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "GLIBC_TUNABLES",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PERL5LIB",
        "PERL5OPT",
        "RUBYOPT",
        "RUBYLIB",
        "BASH_ENV",
        "ENV",
        "BASH_FUNC_ls",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "CLASSPATH",
        "IFS",
        "SHELLOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "GCONV_PATH",
        "LOCPATH",
        "GIT_SSH_COMMAND",
        "GIT_CONFIG_COUNT",
        "ZDOTDIR",
        "OPENSSL_CONF",
        "MAKEFILES",
        "GNUMAKEFLAGS",
        "TAR_OPTIONS",
        "TERMINFO",
    ],
)
def test_what_changes_what_code_runs_is_neither_passed_nor_set(name):
    assert refusal(name, fixed=False) == refusal(name, fixed=True) == f"{name} changes what code runs"


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "EDITOR",
        "SHELL",
        "JAVA_HOME",
        "XDG_CONFIG_HOME",
        "TMPDIR",
        "RSYNC_RSH",
        "DBUS_SESSION_BUS_ADDRESS",
        "PIP_INDEX_URL",
        "RUSTC_WRAPPER",
        "SSL_CERT_FILE",
    ],
)
def test_where_programs_look_is_for_the_artifact_to_say(name):
    assert refusal(name, fixed=True) is None
    assert (
        refusal(name, fixed=False) == f"{name} changes what code runs: the artifact may set it, not pass it"
    )


def test_a_harmless_member_of_a_refused_family_may_be_set_but_not_passed():
    assert refusal("PYTHONUNBUFFERED", fixed=True) is None
    assert refusal("PYTHONUNBUFFERED", fixed=False) is not None


@pytest.mark.parametrize(
    "name", ["", "1A", "A-B", "A=B", "A\0", "É", "BASH_FUNC_ls%%", "A B", "A" * 129, "LD_PRELOAD ", "A\n"]
)
def test_names_that_shells_and_linkers_read_differently_are_refused(name):
    assert "portable" in (refusal(name, fixed=True) or "")
