"""`init --standalone`, cut off by kill -9 after each of its effects, and run again."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.agent import provision_steps, standalone
from attestd.agent.keystore import load_keys
from attestd.agent.provision import Provisioned, provision_standalone
from attestd.audit.seal import Sealer
from attestd.audit.store import LogStore
from attestd.audit.verify import verify_log
from attestd.distribution import creation
from attestd.distribution import publishing as publication
from attestd.distribution import standalone as local_repository
from attestd.distribution.local import load_own_trust
from attestd.distribution.staging import Staging
from attestd.errors import AttestdError, UsageError
from attestd.lineage.checkpoint import LogKeys
from attestd.paths import Configuration, Layout, find_layout
from attestd.tcg.public import parse_public
from attestd.tpm.device import Tpm
from attestd.tpm.embedded import EmbeddedTpm

EFFECTS: list[tuple[Any, str]] = [
    (standalone, "generate"),
    (local_repository, "generate"),
    (local_repository, "write_atomic"),
    (publication, "publish_files"),
    (creation, "save_settings"),
    (Staging, "write"),
    (Staging, "write_drafts"),
    (provision_steps, "write_atomic"),
    (provision_steps, "save_keys"),
    (provision_steps, "create"),
    (Tpm, "create_keys"),
    (Tpm, "define_epoch"),
    (Tpm, "init_epoch"),
    (Tpm, "define_counter"),
    (Tpm, "step_counter"),
    (Sealer, "_commit"),
]


@pytest.fixture
def layout(swtpm_template: Path, short_dir: Path) -> Iterator[Layout]:
    layout = find_layout(str(short_dir / "s"))
    shutil.copytree(swtpm_template, layout.tpm)
    yield layout
    EmbeddedTpm(layout.tpm).kill()


def init(layout: Layout, **options: Any) -> Provisioned:
    return provision_standalone(layout, Configuration(), **{"pcrs": None, "labels": {}, **options})


def in_child(call: Callable[[], object]) -> int:
    """Runs something in a forked process that may be killed; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            call()
        except BaseException:  # noqa: BLE001 - whatever it is, the parent sees it in the status
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def die_after(count: int) -> None:
    """From here on the process dies after the `count`th effect."""
    left = count

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal left
            result = function(*args, **named)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for owner, name in EFFECTS:
        setattr(owner, name, counted(getattr(owner, name)))


def require_complete(layout: Layout) -> None:
    trust = load_own_trust(layout)
    (host,) = trust.hosts.values()
    store = LogStore.open(str(layout.log))
    origin, size = store.origin, store.size
    store.close()
    assert size == 1
    assert verify_log(str(layout.log), LogKeys(origin, host.release_spki, host.ak_spki)).size == 1
    blobs, _ = load_keys(layout.keys)
    key = parse_public(blobs.release_public).public_key()
    assert key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == host.release_spki
    for path in (layout.authority, layout.agent, layout.runner):
        assert path.stat().st_mode & 0o077 == 0


def files(layout: Layout) -> dict[Path, bytes]:
    """All files with their contents, but SQLite's own beside the log."""
    found = (path for path in layout.agent.parent.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in found if not path.name.startswith("log.db-")}


def test_cut_off_after_every_effect(swtpm_template: Path, short_dir: Path) -> None:
    count = 0
    while True:
        count += 1
        layout = find_layout(str(short_dir / str(count)))
        shutil.copytree(swtpm_template, layout.tpm)

        def cut_off(layout: Layout = layout, count: int = count) -> None:
            die_after(count)
            init(layout)

        status = in_child(cut_off)
        try:
            # The next run finishes, whatever was done and whatever was not.
            assert in_child(lambda layout=layout: init(layout)) == 0, f"after effect {count}"
            require_complete(layout)
        finally:
            EmbeddedTpm(layout.tpm).kill()
        if not os.WIFSIGNALED(status):
            break
    assert count > 15


def test_again_finds_all_done_and_changes_nothing(layout: Layout) -> None:
    first = init(layout)
    before = files(layout)
    again = init(layout)
    assert (first.fresh, again.fresh) == (True, False)
    assert (first.host, first.log_origin, first.tier) == (again.host, again.log_origin, "software")
    assert files(layout) == before


def test_other_pcrs_than_approved(layout: Layout) -> None:
    assert str(init(layout, pcrs="0,7").selection) == "sha256:0,7"
    assert init(layout, pcrs="sha256:0,7").fresh is False
    with pytest.raises(UsageError):
        init(layout, pcrs="0,2")


def test_labels_and_permissions(layout: Layout) -> None:
    init(layout, labels={"role": "ci"})
    trust = load_own_trust(layout)
    (host,) = trust.hosts.values()
    assert host.labels == {"role": "ci"}
    require_complete(layout)


def test_other_tpm_needs_its_pcrs(layout: Layout) -> None:
    with pytest.raises(UsageError, match="--pcrs"):
        provision_standalone(layout, Configuration(tpm="device:/dev/nothing"), pcrs=None, labels={})
    with pytest.raises(AttestdError):
        provision_standalone(layout, Configuration(tpm="device:/dev/nothing"), pcrs="0", labels={})


def test_too_long_a_path_is_said_before_anything_is_made(short_dir: Path) -> None:
    top = short_dir / ("x" * 100)
    with pytest.raises(UsageError, match="shorter"):
        init(find_layout(str(top)))
    assert not top.exists()
