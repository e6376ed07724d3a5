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
        "AWKLIBPATH",
        "AWKPATH",
        "BASHOPTS",
        "CDPATH",
        "CLASSPATH",
        "EMACSLOADPATH",
        "ENV",
        "EXINIT",
        "FPATH",
        "GCONV_PATH",
        "GDK_PIXBUF_MODULE_FILE",
        "GETCONF_DIR",
        "GIO_EXTRA_MODULES",
        "GIO_MODULE_DIR",
        "GIT_ASKPASS",
        "GIT_EXEC_PATH",
        "GIT_EXTERNAL_DIFF",
        "GIT_PROXY_COMMAND",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_TEMPLATE_DIR",
        "GNUMAKEFLAGS",
        "GRADLE_OPTS",
        "GST_PLUGIN_PATH",
        "GST_PLUGIN_SYSTEM_PATH",
        "GTK_MODULES",
        "GTK_PATH",
        "GUILE_LOAD_COMPILED_PATH",
        "GUILE_LOAD_PATH",
        "HOSTALIASES",
        "IFS",
        "JAVA_OPTS",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "JULIA_LOAD_PATH",
        "LIBGL_DRIVERS_PATH",
        "LIBVA_DRIVERS_PATH",
        "LOCALDOMAIN",
        "LOCPATH",
        "MAKEFILES",
        "MAKEFLAGS",
        "MAVEN_OPTS",
        "MFLAGS",
        "NLSPATH",
        "NODE_OPTIONS",
        "NODE_PATH",
        "NODE_REPL_EXTERNAL_MODULE",
        "OPENSSL_CONF",
        "OPENSSL_ENGINES",
        "OPENSSL_MODULES",
        "PERLLIB",
        "PERL_UNICODE",
        "PHPRC",
        "PHP_INI_SCAN_DIR",
        "PROMPT_COMMAND",
        "PS4",
        "QT_PLUGIN_PATH",
        "RESOLV_HOST_CONF",
        "RES_OPTIONS",
        "R_ENVIRON",
        "R_ENVIRON_USER",
        "R_LIBS",
        "R_LIBS_USER",
        "R_PROFILE",
        "R_PROFILE_USER",
        "SASL_PATH",
        "SHELLOPTS",
        "SSLKEYLOGFILE",
        "TAR_OPTIONS",
        "TCLLIBPATH",
        "TCL_LIBRARY",
        "TERMCAP",
        "TERMINFO",
        "TERMINFO_DIRS",
        "TK_LIBRARY",
        "VIMINIT",
        "VIMRUNTIME",
        "VK_DRIVER_FILES",
        "VK_ICD_FILENAMES",
        "VK_LAYER_PATH",
        "ZDOTDIR",
        "ZIPOPT",
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
# Where programs look for other programs, their configuration, and whom they trust: the artifact may fix them, the
# requester not.
_FIXED_ONLY_PREFIXES: Final = ("ANSIBLE_", "CARGO_", "PIP_", "RUSTC", "TF_CLI_", "UV_")
_FIXED_ONLY: Final = frozenset(
    {
        "AR",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AZURE_CONFIG_DIR",
        "BROWSER",
        "CC",
        "CLOUDSDK_CONFIG",
        "CLOUDSDK_PYTHON",
        "COMPILER_PATH",
        "CPATH",
        "CURL_CA_BUNDLE",
        "CURL_HOME",
        "CVS_RSH",
        "CXX",
        "DBUS_SESSION_BUS_ADDRESS",
        "DBUS_SYSTEM_BUS_ADDRESS",
        "DOCKER_CONFIG",
        "DOCKER_HOST",
        "EDITOR",
        "GCC_EXEC_PREFIX",
        "GIT_COMMON_DIR",
        "GIT_DIR",
        "GIT_EDITOR",
        "GIT_PAGER",
        "GIT_SEQUENCE_EDITOR",
        "GIT_WORK_TREE",
        "GNUPGHOME",
        "GOENV",
        "GOFLAGS",
        "GOPATH",
        "GOROOT",
        "GOTOOLCHAIN",
        "HELM_PLUGINS",
        "HGRCPATH",
        "HOME",
        "JAVA_HOME",
        "KRB5_CONFIG",
        "KUBECONFIG",
        "LD",
        "LESS",
        "LESSCLOSE",
        "LESSKEY",
        "LESSOPEN",
        "LIBRARY_PATH",
        "MANPAGER",
        "NODE_EXTRA_CA_CERTS",
        "PAGER",
        "PATH",
        "REQUESTS_CA_BUNDLE",
        "RSYNC_CONNECT_PROG",
        "RSYNC_RSH",
        "RUSTFLAGS",
        "SHELL",
        "SSH_ASKPASS",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "SUDO_ASKPASS",
        "SUDO_EDITOR",
        "SVN_SSH",
        "SYSTEMD_EDITOR",
        "SYSTEMD_PAGER",
        "TF_DATA_DIR",
        "TMPDIR",
        "VISUAL",
        "WGETRC",
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
    if not fixed and (name in _FIXED_ONLY or name.startswith(_FIXED_ONLY_PREFIXES)):
        return f"{name} changes what code runs: the artifact may set it, not pass it"
    return None
