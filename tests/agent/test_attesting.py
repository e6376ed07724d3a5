"""A real TPM attests to a remote verifier: with logs, once more with what is new, and again after a reset."""

from collections.abc import Iterator

import pytest

from attestd.appraisal.evidence import draft_evidence, make_boot_logs, parse_evidence
from attestd.appraisal.host_state import HostState
from attestd.appraisal.ima import parse_ima_policy
from attestd.appraisal.state import BootAppraiser
from attestd.appraisal.verifier import VerifiedEvidence, Verifier, ask_evidence
from attestd.errors import VerificationError
from attestd.strict import decode_base64url
from attestd.tcg.binding import Purpose, extra_data
from tests.agent.test_evidence import NOW, Bench, on
from tests.measured import UKI, MeasuredHost, boot_rules, ima_policy

KEY = bytes(range(32))


class Remote:
    """A verifier, and the host's side of its questions."""

    def __init__(self, host: MeasuredHost) -> None:
        self.host, self.trust = host, host.trust
        self.policy = self.trust.platforms["local"]
        self.kept: dict[str, bytes] = {}
        self.state: HostState | None = None
        self.verifier = Verifier(
            KEY, BootAppraiser(), lambda name: parse_ima_policy(self.trust.ima[name]), self.kept.get
        )

    def evidence(self, bench: Bench) -> bytes:
        asked = ask_evidence(
            self.state,
            host=self.host.id,
            policy=self.policy,
            key=KEY,
            expires=NOW.replace(year=2100),
            random=bytes,
        )
        bound = extra_data(
            Purpose.EVIDENCE,
            host_id=self.host.id,
            data=decode_base64url(asked.challenge, what="challenge"),
        )
        attest, signature, values = bench.port.quote_values(self.policy.quoted, bound).result()
        clock = bench.port.clock()
        known = asked.ima
        same = known is not None and (known.reset_count, known.restart_count) == (
            clock.reset_count,
            clock.restart_count,
        )
        offset = known.offset if known is not None and same else 0
        return draft_evidence(
            asked,
            attest=attest,
            signature=signature,
            values=values,
            logs=make_boot_logs(
                firmware=self.host.eventlog.read_bytes(),
                userspace=b"",
                command_line=self.host.command_line.read_text().rstrip("\n"),
            ),
            ima=(offset, self.host.ima_list.read_bytes()[offset:]),
            agent="attestd",
        )

    def verify(self, evidence: bytes) -> VerifiedEvidence:
        now = self.trust.hosts[self.host.id].not_before
        found = self.verifier.verify(parse_evidence(evidence), trust=self.trust, state=self.state, now=now)
        self.state = found.state
        if found.logs is not None and found.state.eventlog is not None:
            self.kept[found.state.eventlog] = found.logs
        return found


@pytest.fixture
def host() -> Iterator[MeasuredHost]:
    with MeasuredHost.create() as host:
        assert isinstance(host, MeasuredHost)
        host.configure()
        host.reboot(UKI)
        host.rules(boot=boot_rules(secure_boot="required"), ima=ima_policy("/bin/a"))
        yield host


def boot_findings(found: VerifiedEvidence) -> tuple[str, ...]:
    assert found.appraisal.boot is not None
    assert found.appraisal.ima is not None
    assert found.appraisal.ima.count == 0
    return found.appraisal.boot.findings


def test_a_real_tpm(host: MeasuredHost) -> None:
    remote = Remote(host)
    with on(host) as bench:
        first = remote.evidence(bench)
        assert boot_findings(remote.verify(first)) == ()
        with pytest.raises(VerificationError, match="a replay"):
            remote.verify(first)
        small = remote.evidence(bench)
        assert len(small) < 4096 < len(first)
        assert boot_findings(remote.verify(small)) == ()
        bench.extend(7)
        found = remote.verify(remote.evidence(bench))
        assert boot_findings(found) == ("PCR 7: extended after the boot, by nothing that a log tells",)
        late = remote.evidence(bench)
    host.reboot(UKI)
    with on(host) as bench:
        before = remote.state
        assert before is not None
        again = remote.verify(remote.evidence(bench))
        assert again.state.clock.reset_count > before.clock.reset_count
        assert boot_findings(again) == ()
        with pytest.raises(VerificationError, match="fewer resets than before"):
            remote.verify(late)
