"""Rules over boots and an IMA policy, put into a platform policy."""

import pytest

from attestd.appraisal.boot_rules import parse_boot_rules
from attestd.distribution.repository import Repository
from attestd.distribution.rules import Rules, stage_rules
from attestd.distribution.standalone import open_local_repository, publish_local
from attestd.errors import UsageError
from attestd.governance.platform import Quorums
from attestd.strict import canonical
from tests.host import Host
from tests.measured import boot_rules, ima_policy

BOOT = parse_boot_rules(canonical(boot_rules(secure_boot="required")))
NONE, TWO = Quorums(verifiers=0, witnesses=0), Quorums(verifiers=2, witnesses=1)
IMA = canonical(ima_policy("/bin/x"))


def test_rules_are_staged_and_taken_out_again():
    with Host.create() as host:
        repository = open_local_repository(host.layout.authority)
        staged = stage_rules(repository, "local", Rules(BOOT, IMA, TWO))
        assert staged.boot == BOOT
        assert (staged.verifier_quorum, staged.witness_quorum) == (2, 1)
        assert staged.ima.target == "ima/local.json"
        assert staged.approvals == host.trust.platforms["local"].approvals
        with pytest.raises(UsageError, match="is staged already"):
            stage_rules(repository, "local", Rules(None, None, NONE))
        publish_local(repository, host.layout.authority, {})
        assert host.trust.ima[staged.ima.sha256] == IMA
        repository = Repository(repository.path)
        without = stage_rules(repository, "local", Rules(BOOT, None, NONE))
        assert (without.boot, without.ima, without.verifier_quorum) == (BOOT, None, 0)
        assert "ima/local.json" not in repository.plan().files
        publish_local(repository, host.layout.authority, {})
        assert not host.trust.ima
        assert stage_rules(repository, "local", Rules(None, None, NONE)).boot is None
        with pytest.raises(UsageError, match="there is no platform policy 'other'"):
            stage_rules(repository, "other", Rules(None, None, NONE))
