"""A fleet's repository at the command line: keys by name, and who signs what."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from attestd.distribution.repository import Repository
from attestd.governance.trust import Trust
from tests.world import World, ed25519_key, key_id, spki

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Cli

FLEET = (
    *("--authorization", "alice.pem", "--authorization", "bob.pem", "--authorization-threshold", "1"),
    *("--enroller", "enroller.pem", "--tpm-root", "tpm root.pem"),
    *("--tpm-platform", "tpm platform.pem", "--tpm-epoch", "tpm epoch.pem"),
)
NAMES = ("root", "alice", "bob", "carol", "online", "enroller", "tpm root", "tpm platform", "tpm epoch")


def create(cli: Cli, *options: str) -> None:
    cli.ok(
        *("governance", "init", "governance", "--root", "root.pem", "--targets", "alice.pem"),
        *("--targets", "bob.pem", "--online", "online.pem", "--publish-to", "web", *options),
    )


def in_repository(cli: Cli) -> Callable[..., object]:
    def call(*arguments: str | Path) -> object:
        command, *rest = arguments
        return cli.ok("governance", command, "--repository", "governance", *rest)

    return call


def publish(cli: Cli, *signers: str) -> None:
    """Signed by two persons, or these, and published."""
    run = in_repository(cli)
    for name in signers or ("alice", "bob"):
        run("sign", "--key", f"{name}.pem", "--yes")
    run("publish")


def trust() -> Trust:
    return Repository(Path("governance")).validate().trust


def trust_keys(name: str) -> dict[str, dict[str, str]]:
    key = ed25519_key(name)
    return {key_id(key): {"spki": b64encode(spki(key)).decode()}}


def trust_id(name: str) -> str:
    return next(iter(trust_keys(name)))


def fleet_world() -> World:
    """A world whose enroller is the office's."""
    world = World()
    world.enrollers = [ed25519_key("enroller")]
    world.authorities["enrollers"]["keys"] = [trust_id("enroller")]
    world.authorities["keys"] |= trust_keys("enroller")
    return world
