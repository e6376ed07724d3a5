"""docs/operations-controller.md: its configuration is one, its bounds are the code's."""

import re
import tomllib
from pathlib import Path

from attestd.controller.configuration import ControllerConfiguration, load_controller_configuration
from attestd.controller.http import application, endpoint, server
from attestd.controller.http.protocol import MAX_HEADERS, Bounds
from attestd.tlog.witness import MAX_ADD_CHECKPOINT_BYTES

TEXT = (Path(__file__).parents[2] / "docs" / "operations-controller.md").read_text()


def test_the_configuration(tmp_path: Path) -> None:
    block = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    (tmp_path / "controller.toml").write_text(block[1])
    load_controller_configuration(tmp_path / "controller.toml", {}).require_roles()
    named = tomllib.loads(block[1])
    assert list(named) != []
    assert set(named) == set(ControllerConfiguration.__struct_fields__)
    # What it shows for those that one sets seldom is what they are unless set.
    defaults = ControllerConfiguration()
    for name in (
        "insecure_http",
        "requests_per_s",
        "burst",
        "connections_per_peer",
        "database",
        "witness_mldsa",
        "verifier_result_s",
        "verifier_logs_mb",
    ):
        assert named[name] == getattr(defaults, name), name


def test_the_bounds() -> None:
    bounds = Bounds()
    rows = TEXT.partition("## Bounds\n")[2].partition("\n## ")[0]
    for words in (
        f"a handshake has {bounds.handshake_s:.0f} s",
        f"{bounds.max_head_bytes // 1024} KiB, {MAX_HEADERS} headers, {bounds.headers_s:.0f} s",
        f"a witness: {MAX_ADD_CHECKPOINT_BYTES / 1000:.0f} kB",
        f"refused unread where its length says more; {endpoint.BODY_S:.0f} s",
        f"| answer | {endpoint.ANSWER_S:.0f} s; a peer that reads nothing for {bounds.write_s:.0f} s is cut off",
        f"| idle connections | {bounds.idle_s:.0f} s",
        f"| connections | {server.MAX_CONNECTIONS:,}, and {ControllerConfiguration().connections_per_peer} a peer",
        f"| requests at a time | {application.MAX_AT_A_TIME}; then 503",
    ):
        assert words in rows, words
