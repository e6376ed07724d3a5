"""A host whose software TPM holds what a recorded boot of a virtual machine measured, with that boot's logs.

Every extend is real: a log that lies replays to other values than the TPM quotes.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attestd.appraisal.boot_rules import parse_boot_rules
from attestd.governance.amend import amend_platform_rules
from attestd.governance.platform import ImaReference, Quorums
from attestd.strict import canonical
from attestd.tcg.algorithms import HASH_SIZES
from attestd.tcg.eventlog.parse import parse_event_log
from attestd.tpm.embedded import EmbeddedTpm
from tests.host import Host
from tests.tcg.ima.build import data as template_data
from tests.tcg.ima.build import digest_of, ima_list

RECORDED = Path(__file__).parent / "tcg" / "data"
UKI, CHANGED = "uki-sb", "uki-sb-cmdline2"
PHASES = (b"sysinit", b"ready")
BANKS = ("sha1", "sha256", "sha384")
assert set(BANKS) == set(HASH_SIZES)


class MeasuredHost(Host):
    """Use `reboot` before `start`; `measure` is what the kernel's IMA does."""

    @property
    def eventlog(self) -> Path:
        return self.top / "binary_bios_measurements"

    @property
    def ima_list(self) -> Path:
        return self.top / "binary_runtime_measurements"

    @property
    def command_line(self) -> Path:
        return self.top / "cmdline"

    def configure(self, *, logs: Sequence[str] = ("eventlog", "ima_list", "command_line")) -> None:
        """Which logs the agent knows of."""
        lines = [f'{name} = "{getattr(self, name)}"' for name in logs]
        self.layout.configuration.write_text("\n".join(['tpm = "embedded"', *lines, ""]))

    def reboot(self, boot: str) -> None:
        """The TPM is reset, then extended as in that boot; its logs lie where the configuration says."""
        if self.agent is not None and self.agent.poll() is None:
            self.stop()
        tpm = EmbeddedTpm(self.layout.tpm)
        tpm.stop()
        tpm.start()
        log = parse_event_log((RECORDED / boot / "binary_bios_measurements").read_bytes())
        with tpm.open() as opened:
            for event in log.events:
                if event.extends:
                    opened.extend(event.pcr, {bank: event.digests[bank] for bank in BANKS})
            for phase in PHASES:
                opened.extend(11, {bank: hashlib.new(bank, phase).digest() for bank in BANKS})
        self.eventlog.write_bytes((RECORDED / boot / "binary_bios_measurements").read_bytes())
        self.command_line.write_bytes((RECORDED / boot / "cmdline").read_bytes())
        self.ima_list.write_bytes(b"")

    def rules(self, *, boot: Mapping[str, Any] | None = None, ima: Mapping[str, Any] | None = None) -> None:
        """What an authority does: the platform policy's next version, with these rules."""
        old, version = self.files()["platform/local.json"], self.trust.platforms["local"].version
        files: dict[str, bytes | None] = {f"platform/history/local-{version}.json": old}
        reference = None
        if ima is not None:
            files["ima/fleet.json"] = canonical(ima)
            digest = hashlib.sha256(canonical(ima)).hexdigest()
            reference = ImaReference(policy="fleet", sha256=digest)
        rules = None if boot is None else parse_boot_rules(canonical(boot))
        self.publish(
            {
                **files,
                "platform/local.json": amend_platform_rules(
                    old, boot=rules, ima=reference, quorums=Quorums(verifiers=0, witnesses=0)
                ),
            }
        )

    def measure(
        self, *paths: bytes, content: bytes = b"x", listed: bool = True, extended: bool = True
    ) -> None:
        """As the kernel does: into the list first, then into PCR 10."""
        items = [template_data(path, content) for path in paths]
        if listed:
            with self.ima_list.open("ab") as file:
                file.write(ima_list(*items))
        for item in items if extended else ():
            self.extend_digest(10, hashlib.sha256(item).digest())

    def extend_digest(self, pcr: int, digest: bytes) -> None:
        """Extends a PCR by a digest, through the agent."""
        answer = self.ask("extend", pcr=pcr, data=b64encode(digest).decode())
        assert "ok" in answer, answer


def ima_policy(*paths: str, **members: Any) -> dict[str, Any]:
    """Files with the content `x` may be measured."""
    return {
        "v": 1,
        "digests": {path: ["sha256:" + digest_of(b"x").hex()] for path in paths},
        "patterns": [],
        "exclude": [],
        "keys": {},
        "violations": "refuse",
        **members,
    }


def boot_rules(**members: Any) -> dict[str, Any]:
    """Boot rules in which nothing is set but these."""
    unset = dict.fromkeys(("certificates", "images", "command_lines", "sections", "digests"))
    rules = {"v": 1, "bank": "sha256", "secure_boot": "unchecked", "separators": "unchecked", **unset}
    return {**rules, **members}


def denied(result: Any) -> dict[str, Any]:
    """The decision of a client that asked with `--json`, denied."""
    assert result.status == 77, (result.status, result.stderr)
    return dict(json.loads(next(line for line in result.stderr.splitlines() if line.startswith("{"))))
