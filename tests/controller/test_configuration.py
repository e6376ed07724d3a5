"""`controller.toml`, and what is refused at start."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attestd.controller.configuration import (
    ControllerConfiguration,
    Role,
    find_controller_layout,
    load_controller_configuration,
    write_controller_configuration,
)
from attestd.errors import StoreError, UsageError
from tests.controller.logs import Log
from tests.controller.running import Controller


def load(path: Path, text: str, **environ: str) -> ControllerConfiguration:
    path.write_text(text)
    return load_controller_configuration(path, environ)


def test_values_and_variables(tmp_path: Path) -> None:
    path = tmp_path / "controller.toml"
    found = load(
        path, 'roles = ["witness"]\nburst = 7\n', ATTESTD_CONTROLLER_BURST="9", ATTESTD_CONTROLLER_LISTEN="[::1]:1",
        ATTESTD_CONTROLLER_INSECURE_HTTP="true", ATTESTD_CONTROLLER_ROLES="lineage",
    )  # fmt: skip
    assert (found.roles, found.burst, found.listen, found.insecure_http) == (
        (Role.WITNESS,),
        9,
        "[::1]:1",
        True,
    )
    assert load(path, "burst = 7").burst == 7


@pytest.mark.parametrize(
    "text",
    [
        "x = 1", "burst = 'x'", "burst = -1", "roles = 'witness'", "roles = ['wizard']", "roles = ['witness', 'witness']",
        "tls_certificate = 'x'", "tls_key = 'x'", "operator_ca = 'x'", "burst = 0", "a = ", "\0", "#" * 9000,
        "connections_per_peer = 0",
    ],
)  # fmt: skip
def test_what_is_no_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"controller\.toml"):
        load(tmp_path / "controller.toml", text)


def test_variables_that_are_wrong(tmp_path: Path) -> None:
    for name, value in (("BURST", "x"), ("INSECURE_HTTP", "yes")):
        with pytest.raises(UsageError):
            load(tmp_path / "controller.toml", "", **{f"ATTESTD_CONTROLLER_{name}": value})


def test_there_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="write it first"):
        load_controller_configuration(tmp_path / "none", {})


def test_what_init_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "controller.toml"
    values = {"listen": "127.0.0.1:1", "witness_name": 'a"b\\c\x7fd\n é'}
    write_controller_configuration(path, roles=["witness"], values=values)
    found = load_controller_configuration(path, {})
    assert (found.roles, found.listen, found.witness_name) == (
        (Role.WITNESS,),
        "127.0.0.1:1",
        values["witness_name"],
    )
    with pytest.raises(UsageError, match="is there"):
        write_controller_configuration(path, roles=["witness"], values={})
    for roles in (["wizard"], []):
        with pytest.raises(UsageError, match="some of enroller, governance, lineage, verifier, witness"):
            write_controller_configuration(tmp_path / "other.toml", roles=roles, values={})
    assert not (tmp_path / "other.toml").exists()


def test_what_init_writes_holds_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"governance": "web", "enroller_key": "one.pem", "epoch_key": "hsm:2", "witness_logs": ""}
    write_controller_configuration(tmp_path / "c.toml", roles=["governance"], values=values)
    found = load_controller_configuration(tmp_path / "c.toml", {})
    assert (found.governance, found.enroller_key) == (str(tmp_path / "web"), str(tmp_path / "one.pem"))
    assert (found.epoch_key, found.witness_logs) == ("hsm:2", "")


def test_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = find_controller_layout(str(tmp_path))
    assert (own.state, own.configuration) == (tmp_path / "controller", tmp_path / "controller.toml")
    assert not own.system
    system = find_controller_layout(str(tmp_path), system=True)
    assert (system.state, system.user) == (Path("/var/lib/attestd-controller"), "attestd-controller")
    monkeypatch.setenv("ATTESTD_STATE_DIR", str(tmp_path / "x"))
    assert find_controller_layout(None).state == tmp_path / "x" / "controller"


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({}, "roles: none is switched on"),
        ({"roles": ["governance"]}, "governance: name the directory"),
        ({"roles": ["governance"], "governance": "/x", "listen": "0.0.0.0:0"}, "without TLS only this host's own"),
        ({"roles": ["governance"], "governance": "/x", "listen": "example.com:0"}, "without TLS only this host's own"),
        ({"roles": ["governance"], "governance": "/x", "listen": "nonsense"}, "without TLS only this host's own"),
        ({"roles": ["witness"], "database": "mysql://h/x"}, "expected sqlite:///PATH"),
    ],
)  # fmt: skip
def test_what_is_refused_at_start(tmp_path: Path, configuration: dict[str, object], words: str) -> None:
    assert words in Controller(tmp_path / "state", **configuration).attestd("serve", status=64).stderr


@pytest.mark.parametrize("name", ["a b", "a+b", "w" * 256, "\t"])
def test_names_that_no_witness_can_have(tmp_path: Path, name: str) -> None:
    witness = Controller(tmp_path / "state", roles=["witness"], witness_name=name)
    assert "witness_name" in witness.attestd("init", status=64).stderr
    assert not (tmp_path / "state" / "controller" / "witness.json").exists()


def test_a_witness_without_logs_or_name(tmp_path: Path) -> None:
    nameless = Controller(tmp_path / "nameless", roles=["witness"])
    assert "witness_name ''" in nameless.attestd("init", status=64).stderr
    witness = Controller(tmp_path / "state", roles=["witness"], witness_name="witness.example/1").init()
    assert "knows no log" in witness.attestd("serve", status=64).stderr


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text(f"{Log().vkey}\n")
    controller = Controller(
        tmp_path / "state",
        roles=["witness"],
        witness_name="witness.example/1",
        witness_logs=str(tmp_path / "logs"),
    ).init()
    files = {
        path: path.read_bytes()
        for path in (tmp_path / "state").rglob("*")
        if path.is_file() and not path.name.startswith("controller.db")
    }
    done = json.loads(controller.attestd("init", "--json").stdout)
    assert done["database"] == "as it was"
    assert len(done["witness_keys"]) == 2
    assert {path: path.read_bytes() for path in files} == files
    state = tmp_path / "state" / "controller"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "witness.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "controller.db").stat().st_mode) == 0o600
    # Another name would be another witness under the same keys.
    toml = tmp_path / "state" / "controller.toml"
    toml.write_text(toml.read_text().replace("witness.example/1", "witness.example/2"))
    assert "a witness keeps its name" in controller.attestd("init", status=64).stderr
    toml.write_text(toml.read_text().replace("witness.example/2", "witness.example/1"))
    (state / "witness.json").chmod(0o640)
    assert "chmod 600" in controller.attestd("serve", status=69).stderr


def test_it_stops_in_order_and_tells_systemd(tmp_path: Path, short_dir: Path) -> None:
    import socket

    (tmp_path / "web" / "metadata").mkdir(parents=True)
    (tmp_path / "web" / "targets").mkdir()
    controller = Controller(tmp_path / "state", roles=["governance"], governance=str(tmp_path / "web")).init()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_dir / "notify"))
        manager.settimeout(30)
        os.environ["NOTIFY_SOCKET"] = str(short_dir / "notify")
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "attestd",
                    "controller",
                    "serve",
                    "--state-dir",
                    str(tmp_path / "state"),
                ],
                stderr=subprocess.PIPE,
            )
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert manager.recv(100) == b"READY=1"
        process.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"controller.stopped" in process.stderr.read()
        process.stderr.close()
    controller.start()
    assert controller.get("/healthz").json == {"healthy": True, "troubles": {}}
    assert controller.stop() == 0


def test_where_the_packages_are_not_installed(tmp_path: Path) -> None:
    """As on a host: one line says what to do."""
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from attestd.cli import run\n"
        f"sys.exit(run(['controller', 'serve', '--state-dir', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 64
    assert "the controller's packages are not installed (uvicorn): make install CONTROLLER=1" in done.stderr


@pytest.mark.parametrize("module", ["attestd.cli", "attestd.agent.service", "attestd.runner.__main__"])
def test_nobody_else_loads_them(module: str) -> None:
    """The agent's memory and everybody's start-up do not pay for a web server or a database server's client."""
    code = f"import sys, {module}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "attestd" in loaded
    assert not loaded & {
        "starlette",
        "uvicorn",
        "httptools",
        "h11",
        "anyio",
        "sqlalchemy",
        "alembic",
        "psycopg",
        "mako",
    }
    assert "attestd.controller" not in done.stdout
