"""Environment variables that change what code runs: an artifact must not let them reach a command.

The digests of an artifact pin the executable, its interpreter and its inputs; a loader path or a start-up hook in the
environment would add code that no digest pins. The list cannot be complete for every program there is: artifacts
list the few names they pass, everything else is dropped anyway, and this list catches the well-known mistakes.
"""

from typing import Final

__all__ = ["is_name", "refusal"]

# Neither from the requester nor from the artifact.
_NEVER_PREFIXES: Final = (
    "LD_",  # ld.so
    "DYLD_",
    "GLIBC_",  # GLIBC_TUNABLES
    "MALLOC_",
    "PYTHON",
    "PERL5",
    "RUBY",
    "GEM_",
    "BUNDLE_",
    "NODE_",
    "NPM_CONFIG_",
    "npm_config_",
    "JDK_",
    "JAVA_",
    "_JAVA_",
    "DOTNET_",
    "CORECLR_",
    "COMPlus_",
    "LUA_",
    "BASH_",  # BASH_ENV, BASH_FUNC_*, BASH_LOADABLES_PATH
    "GIT_",  # GIT_SSH_COMMAND, GIT_CONFIG_*, GIT_EXTERNAL_DIFF
)
_NEVER: Final = frozenset(
    {
        "CDPATH",
        "CLASSPATH",
        "ENV",
        "GCONV_PATH",
        "GETCONF_DIR",
        "HOSTALIASES",
        "IFS",
        "LOCALDOMAIN",
        "LOCPATH",
        "MAKEFLAGS",
        "NIS_PATH",
        "NLSPATH",
        "OPENSSL_CONF",
        "OPENSSL_ENGINES",
        "OPENSSL_MODULES",
        "PERLLIB",
        "PERL_MB_OPT",
        "PERL_MM_OPT",
        "PERL_UNICODE",
        "PHPRC",
        "PHP_INI_SCAN_DIR",
        "PROMPT_COMMAND",
        "PS4",
        "RESOLV_HOST_CONF",
        "RES_OPTIONS",
        "SHELLOPTS",
        "SSLKEYLOGFILE",
        "TCLLIBPATH",
        "ZDOTDIR",
    }
)
# Where programs look for other programs and for their configuration: the artifact may fix them, the requester not.
_FIXED_ONLY: Final = frozenset(
    {
        "BROWSER",
        "EDITOR",
        "HOME",
        "KUBECONFIG",
        "LESSOPEN",
        "LESSCLOSE",
        "PAGER",
        "PATH",
        "SHELL",
        "SSH_ASKPASS",
        "TMPDIR",
        "VISUAL",
        "XDG_CONFIG_DIRS",
        "XDG_CONFIG_HOME",
        "XDG_DATA_DIRS",
        "XDG_DATA_HOME",
    }
)
_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_LETTERS_DIGITS: Final = _LETTERS | frozenset("0123456789")


def is_name(name: str) -> bool:
    """Whether this is a portable name (POSIX.1-2017, 8.1): letters, digits, `_`; so no shell function either."""
    return 0 < len(name) <= 128 and name[0] in _LETTERS and _LETTERS_DIGITS.issuperset(name)


def refusal(name: str, *, fixed: bool) -> str | None:
    """Why a variable must not reach a command, or None if it may.

    Args:
        name: The variable.
        fixed: True if the artifact gives the value, False if it comes from the requester.
    """
    if not is_name(name):
        return f"{name[:80]!r} is not a portable variable name"
    if name in _NEVER or name.startswith(_NEVER_PREFIXES):
        return f"{name} changes what code runs"
    if name in _FIXED_ONLY and not fixed:
        return f"{name} changes what code runs: the artifact may set it, not pass it"
    return None
