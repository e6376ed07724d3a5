"""Where an agent's state directory and socket are. Shared by the client and `attestd.paths`: no imports on purpose."""

import posix

__all__ = ["MAX_SOCKET_PATH_BYTES", "agent_socket", "state_dir"]

MAX_SOCKET_PATH_BYTES = 107  # sun_path of sockaddr_un (unix(7)) is 108 bytes with its final NUL
SYSTEM_SOCKET = b"/run/attestd/agent.sock"


def state_dir(explicit: bytes | None, environ: dict[bytes, bytes], uid: int) -> bytes | None:
    """The state directory below which everything lives, unless attestd runs as a system service.

    Args:
        explicit: The `--state-dir` option.
        environ: The environment.
        uid: Who asks.

    Returns:
        The option, else `ATTESTD_STATE_DIR`, else the user's own directory, or None for root (the system's places).
    """
    chosen = explicit or environ.get(b"ATTESTD_STATE_DIR")
    if chosen:
        return chosen
    if uid == 0:
        return None
    states = environ.get(b"XDG_STATE_HOME")
    if not states or not states.startswith(b"/"):  # XDG base directories: a relative path is to be ignored
        states = _home(environ, uid) + b"/.local/state"
    return states + b"/attestd"


def agent_socket(explicit_state_dir: bytes | None, environ: dict[bytes, bytes], uid: int) -> bytes:
    """The agent's socket: `ATTESTD_SOCKET`, else the state directory's, else the system's.

    A user's own default directory counts only if an agent has a socket there, so that users of a host with the
    system's agent need no configuration.
    """
    explicit = environ.get(b"ATTESTD_SOCKET")
    if explicit:
        return explicit
    directory = state_dir(explicit_state_dir, environ, uid)
    if directory is None:
        return SYSTEM_SOCKET
    path = directory + b"/run/agent.sock"
    if explicit_state_dir or environ.get(b"ATTESTD_STATE_DIR") or _exists(path):
        return path
    return SYSTEM_SOCKET


def _home(environ: dict[bytes, bytes], uid: int) -> bytes:
    home = environ.get(b"HOME")
    if home:
        return home
    import pwd  # noqa: PLC0415 - only without HOME

    try:
        return pwd.getpwuid(uid).pw_dir.encode("utf-8", "surrogateescape")
    except KeyError:
        return b"/nonexistent"


def _exists(path: bytes) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True
