"""Witnesses for a host: real controllers that know it by its own governance, and the mesh.json that names them."""

import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attestd.strict import canonical
from tests.controller.running import Controller
from tests.host import Host
from tests.world import mesh_file, week_ahead


def witness_of(host: Host, name: str, **configuration: Any) -> Controller:
    """A controller that witnesses the host's log; not started."""
    state = host.top / f"witness-{name}"
    controller = Controller(
        state,
        roles=["witness", "governance"],
        governance=str(host.layout.trust),
        witness_name=f"witness.example/{name}",
        witness_mldsa=False,
        listen=f"127.0.0.1:{free_port()}",  # The same again when it is started again.
        **configuration,
    )
    (state / "trust").mkdir(exist_ok=True)
    shutil.copy(host.layout.trust / "root.json", state / "trust" / "root.json")
    return controller.init()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def vkey_of(controller: Controller) -> str:
    """Its first key, as mesh.json names it."""
    return (controller.state / "controller" / "witness.vkeys").read_text().splitlines()[0]


def publish_mesh(
    host: Host, nodes: Mapping[str, tuple[str, str]], *, quorum: int = 0, version: int = 1
) -> None:
    """Names witnesses, each by its submission prefix and vkey."""
    named = {name: {"url": url, "vkey": vkey} for name, (url, vkey) in nodes.items()}
    mesh = json.loads(mesh_file(version=version, handover=week_ahead()))
    host.publish({"mesh.json": canonical({**mesh, "witnesses": {"quorum": quorum, "nodes": named}})})


def url_of(controller: Controller) -> str:
    return f"http://127.0.0.1:{controller.port}/witness"


def configure(host: Host, **members: Any) -> Path:
    """Adds members to the host's configuration."""
    lines = [f"{name} = {value!r}\n" for name, value in members.items()]
    with host.layout.configuration.open("a") as file:
        file.writelines(lines)
    return host.layout.configuration
