"""`attestd governance platform`: the policy of a fleet, from PCR values."""

import json
from pathlib import Path

import pytest

from attestd.distribution.approve import parse_pcr_values
from attestd.errors import MalformedError
from tests.cli.conftest import Cli
from tests.cli.fleet import in_repository, publish, trust


def test_a_platform_policy_of_a_fleet(repository: Cli) -> None:
    """From PCR values of a reference machine; what replaces it keeps its history by itself."""
    run = in_repository(repository)
    Path("pcrs").write_text(
        "sha1:\n  0 : 0x" + "ab" * 20 + "\nsha256:\n  0 : 0x" + "AB" * 32 + "\n  11: 0x" + "0" * 64
    )
    make = (
        "platform",
        "prod",
        "--values",
        "pcrs",
        "--root-key",
        "tpm root.pem",
        "--key",
        "tpm platform.pem",
        "--yes",
    )
    run(*make)
    found = trust().platforms["prod"]
    assert (found.selection.pcrs, found.min_tier, found.values[0]) == ((0, 11), "hardware", (b"\xab" * 32,))
    for wrong, said in (
        (make, "is there"),
        ((*make[:1], "x", *make[2:4], "--root-key", "alice.pem", *make[6:]), "not the TPM root"),
        ((*make[:1], "x", *make[2:6], "--key", "tpm root.pem", "--yes"), "no platform authority"),
        ((*make[:1], "x", "--values", "alice.pem", *make[4:]), "PCR values"),
    ):
        refused = repository("governance", wrong[0], "--repository", "governance", *wrong[1:])
        assert refused.status in (64, 65), refused
        assert said in refused.stderr
    publish(repository)
    value = json.loads(Path("governance/staged/targets/platform/prod.json").read_bytes())
    Path("prod.json").write_text(json.dumps({**value, "version": 2, "writable": "refuse"}))
    run("add", "platform/prod.json", "prod.json")
    assert trust().history.keys() == {("prod", 1)}
    diff = repository.ok("governance", "diff", "--repository", "governance").stdout
    assert "platform policy prod: writable copy -> refuse" in diff
    assert "kept, for old receipts name it" in diff
    run("remove", "platform/history/prod-1.json")
    assert trust().history.keys() == {("prod", 1)}, "it cannot be removed while it is the published version"


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "0 : 0x00", "sha256:\n 0 : 0xzz", '{"pcrs": {}}', '{"pcrs": {"0": {"now": "x"}}, "bank": "sha256"}', "\xff",
     "sha256:\n 24 : 0x" + "0" * 64, "sha256:\n 1 : 0x" + "0" * 64 + "\n 01 : 0x" + "0" * 64],
)  # fmt: skip
def test_no_pcr_values(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_pcr_values(text.encode("latin-1"))


def test_pcr_values_as_they_are_shown() -> None:
    shown = {"bank": "sha256", "pcrs": {"4": {"now": "ab" * 32, "approved": []}}, "platform": "local"}
    assert parse_pcr_values(json.dumps(shown).encode()) == {4: b"\xab" * 32}
