"""A host that attests and a verifier that asks it: the recorded boot of a machine, quoted by a host of `tests.world`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from msgspec.structs import replace

from attestd.appraisal.evidence import (
    BootLogs,
    EvidenceChallenge,
    draft_evidence,
    make_boot_logs,
    parse_evidence,
)
from attestd.appraisal.host_state import HostState, parse_host_state
from attestd.appraisal.ima import ImaPolicy, parse_ima_policy
from attestd.appraisal.state import BootAppraiser
from attestd.appraisal.verifier import VerifiedEvidence, Verifier, ask_evidence
from attestd.governance.platform import PlatformPolicy
from attestd.governance.trust import Trust
from attestd.strict import canonical, decode_base64url
from attestd.tcg.binding import Purpose
from attestd.tcg.pcr import composite
from tests.appraisal.test_boot import rules
from tests.tcg.eventlog.build import BOOTS, RECORDED
from tests.tcg.ima.build import data as template_data
from tests.tcg.ima.build import digest_of, ima_list, pcr10
from tests.world import CLOCK, NOW, SELECTION, Host, World, digest

KEY = bytes(range(32))
BOOT = "uki-sb"
GOOD = template_data(b"/bin/good")
BAD = template_data(b"/bin/evil", b"evil")


def ima_policy(*paths: str) -> bytes:
    """Allows a few files that hold `x`."""
    allowed = {path: [f"sha256:{digest_of(b'x').hex()}"] for path in ("/bin/good", *paths)}
    return canonical(
        {"v": 1, "digests": allowed, "patterns": [], "exclude": [], "keys": {}, "violations": "refuse"}
    )


class Attesting:
    """Attributes may be changed between questions: `values`, `items` (what IMA measured), `clock`, `now`, `world`."""

    def __init__(
        self, *, boot: bool = True, ima: bool = True, name: str = "attesting", now: datetime = NOW
    ) -> None:
        self.world = World(name, now=now)
        self.values = dict(RECORDED[BOOT][1]["sha256"])
        self.world.values = {pcr: self.values[pcr] for pcr in SELECTION.pcrs}
        self.line = (BOOTS / BOOT / "cmdline").read_text().rstrip("\n")
        self.with_boot, self.with_ima = boot, ima
        self.policy_file = ima_policy()
        self.publish()
        self.items = [GOOD]
        self.clock, self.now, self.host = CLOCK, self.world.now, self.world.host
        self.state: HostState | None = None
        self.kept: dict[str, bytes] = {}
        self.boots = BootAppraiser()
        self.parsed = 0

    def publish(self, **members: Any) -> None:
        """The platform policy as it should be now; `members` replace those of its reference."""
        set_ = rules(command_lines=[self.line], secure_boot="required")
        reference = self.world.platform_file()["reference"] | {
            "boot": set_ if self.with_boot else None,
            "ima": {"policy": "fleet", "sha256": digest(self.policy_file)} if self.with_ima else None,
        }
        self.world.platforms["local"] = self.world.platform_file(reference=reference | members)
        self.world.extra["ima/fleet.json"] = self.policy_file

    @property
    def trust(self) -> Trust:
        return self.world.trust()

    @property
    def policy(self) -> PlatformPolicy:
        return self.trust.platforms["local"]

    @cached_property
    def logs(self) -> BootLogs:
        firmware = (BOOTS / BOOT / "binary_bios_measurements").read_bytes()
        return make_boot_logs(firmware=firmware, userspace=b"", command_line=self.line)

    def ask(self, **changes: Any) -> EvidenceChallenge:
        known: dict[str, Any] = {
            "host": self.host.id,
            "policy": self.policy,
            "key": KEY,
            "expires": self.now + timedelta(minutes=1),
            "random": bytes,
        }
        return ask_evidence(self.state, **{**known, **changes})

    def tick(self, **changes: Any) -> None:
        """The TPM's clock goes on by a second, or its counts change."""
        self.clock = replace(self.clock, **{"clock": self.clock.clock + 1000, **changes})

    def quoted(self) -> dict[int, bytes]:
        found = {pcr: self.values[pcr] for pcr in self.policy.quoted.pcrs}
        return {**found, 10: pcr10("sha256", *self.items)} if self.with_ima else found

    def ima(self, asked: EvidenceChallenge) -> tuple[int, bytes] | None:
        """The list from where it is wanted, as an agent sends it."""
        if not self.with_ima:
            return None
        counts = self.clock.reset_count, self.clock.restart_count
        same = asked.ima is not None and (asked.ima.reset_count, asked.ima.restart_count) == counts
        offset = asked.ima.offset if asked.ima is not None and same else 0
        return offset, ima_list(*self.items)[offset:]

    def answer(
        self,
        asked: EvidenceChallenge | None = None,
        *,
        signer: Host | None = None,
        purpose: Purpose = Purpose.EVIDENCE,
        about: Mapping[int, bytes] | None = None,
        **changes: Any,
    ) -> bytes:
        """Evidence; `signer` quotes for the host, over `about`, and `changes` go to `draft_evidence`."""
        asked = asked or self.ask()
        values = self.quoted()
        selection = self.policy.quoted
        attest, signature = (signer or self.host).quote(
            purpose,
            decode_base64url(asked.challenge, what="challenge"),
            selection=selection,
            pcr_digest=composite(selection, about or values),
            clock=self.clock,
        )
        drafted: dict[str, Any] = {
            "attest": attest,
            "signature": signature,
            "values": values,
            "logs": self.logs if self.with_boot else None,
            "ima": self.ima(asked),
            "agent": "attestd 0.1.0",
        }
        return draft_evidence(asked, **{**drafted, **changes})

    @property
    def verifier(self) -> Verifier:
        return Verifier(KEY, self.boots, self._policy, self.kept.get)

    def _policy(self, name: str) -> ImaPolicy:
        self.parsed += 1
        return parse_ima_policy(self.trust.ima[name])

    def verify(self, evidence: bytes | None = None) -> VerifiedEvidence:
        """Verifies evidence, by default what the host answers now; keeps what a verifier keeps, as it stores it."""
        data = self.answer() if evidence is None else evidence
        found = self.verifier.verify(parse_evidence(data), trust=self.trust, state=self.state, now=self.now)
        self.state = parse_host_state(found.state.to_bytes())
        assert self.state == found.state
        if found.logs is not None:
            assert found.state.eventlog is not None
            self.kept[found.state.eventlog] = found.logs
        return found
