"""Environment variables that change what code runs: an artifact must not let them reach a command.

The digests of an artifact pin the executable, its interpreter and its inputs; a loader path or a start-up hook in the
environment would add code that no digest pins. The list cannot be complete for every program there is: artifacts
list the few names they pass, everything else is dropped anyway, and this list catches the well-known mistakes.
"""

from typing import Final

__all__ = ["is_name", "refusal"]

# Neither from the requester nor from the artifact.
_NEVER_PREFIXES: Final = (
    "BASH_",  # BASH_ENV, BASH_FUNC_*, BASH_LOADABLES_PATH
    "BUNDLE_",
    "COMPlus_",
    "CORECLR_",
    "DOTNET_",
    "DYLD_",
    "GEM_",
    "GIT_CONFIG",
    "GLIBC_",  # GLIBC_TUNABLES
    "LD_",  # LD_PRELOAD, LD_LIBRARY_PATH, LD_AUDIT
    "LUA_",
    "NPM_CONFIG_",
    "PERL5",
    "PYTHON",
    "RUBY",
    "npm_config_",
)
_NEVER: Final = frozenset(
    {
        "CDPATH",
        "CLASSPATH",
        "ENV",
        "GCONV_PATH",
        "GETCONF_DIR",
        "GIT_ASKPASS",
        "GIT_EXEC_PATH",
        "GIT_EXTERNAL_DIFF",
        "GIT_PROXY_COMMAND",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_TEMPLATE_DIR",
        "HOSTALIASES",
        "IFS",
        "JAVA_OPTS",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "LOCALDOMAIN",
        "LOCPATH",
        "MAKEFLAGS",
        "NLSPATH",
        "NODE_OPTIONS",
        "NODE_PATH",
        "OPENSSL_CONF",
        "OPENSSL_ENGINES",
        "OPENSSL_MODULES",
        "PERLLIB",
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
        "_JAVA_OPTIONS",
    }
)
# Members of the families above that load nothing; an artifact may want them.
_HARMLESS: Final = frozenset(
    {
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED",
        "PYTHONIOENCODING",
        "PYTHONNOUSERSITE",
        "PYTHONSAFEPATH",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
    }
)
# Where programs look for other programs and for their configuration: the artifact may fix them, the requester not.
_FIXED_ONLY: Final = frozenset(
    {
        "BROWSER",
        "EDITOR",
        "GIT_EDITOR",
        "GIT_PAGER",
        "HOME",
        "JAVA_HOME",
        "KUBECONFIG",
        "LESSCLOSE",
        "LESSOPEN",
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
    if fixed and name in _HARMLESS:
        return None
    if name in _NEVER or name.startswith(_NEVER_PREFIXES):
        return f"{name} changes what code runs"
    if name in _FIXED_ONLY and not fixed:
        return f"{name} changes what code runs: the artifact may set it, not pass it"
    return None
