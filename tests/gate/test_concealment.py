"""What governance calls secret is not in the entry, and the runner still compares all of it."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from attestd.authorization.pattern import ArgForm
from attestd.authorization.secret import ALL_SECRET
from attestd.codes import Code, Denial, Denied
from attestd.errors import UsageError
from attestd.gate.concealment import Concealment, concealed_places, derive_salt, salted_digest
from attestd.gate.decide import decide
from attestd.gate.replay import replay
from attestd.lineage.entry import EntryType, format_entry, parse_entry
from attestd.strict import canonical, format_time_us
from tests.governance.test_cedar import load
from tests.world import BOOT, NOW, SALT, Granted, World

ARGUMENT, TOKEN = "hidden", "tok3n"
FREE = ArgForm(prefix="", charset="lower", most=20)


def secret_world(secret: Mapping[str, Any] | None = None) -> World:
    world = World()
    world.authorities["authorizations"][0]["secret"] = secret or {"argv": [2], "env": ["TOKEN"]}
    return world


def grant(world: World) -> Granted:
    execution = world.execution(
        argv=("deploy", "--key", ARGUMENT), env={"PATH": "/usr/bin:/bin", "TOKEN": TOKEN}
    )
    return world.grant(
        execution, argv=["deploy", "--key", FREE], env_pass=["TOKEN"], env_set={"PATH": "/usr/bin:/bin"}
    )


def test_the_digest() -> None:
    wanted = hashlib.sha256(SALT + b"attestd.secret.v1\0argv[2]\0hidden").hexdigest()
    assert salted_digest(SALT, "argv[2]", "hidden") == wanted
    assert (
        len({wanted, salted_digest(SALT, "argv[1]", "hidden"), salted_digest(bytes(32), "argv[2]", "hidden")})
        == 3
    )
    with pytest.raises(UsageError):
        salted_digest(SALT[1:], "argv[2]", "hidden")


def test_a_salt_a_decision() -> None:
    assert derive_salt(SALT, "ab") == hmac.digest(SALT, b"attestd.salt.v1\0ab", "sha256")
    assert derive_salt(SALT, "ab") != derive_salt(SALT, "ac")
    with pytest.raises(UsageError):
        derive_salt(b"", "ab")


def test_nobody_prints_a_salt() -> None:
    request = World().request()
    assert request.salt == SALT
    assert repr(SALT) not in repr(request) + repr(Concealment(ALL_SECRET, SALT))


def test_an_allowed_decision_has_digests_where_governance_says() -> None:
    world = secret_world()
    body = grant(world).body
    assert body["code"] is None
    assert body["argv"] == ["deploy", "--key", {"salted": salted_digest(SALT, "argv[2]", ARGUMENT)}]
    assert body["env"] == {
        "PATH": "/usr/bin:/bin", "TOKEN": {"salted": salted_digest(SALT, "env:TOKEN", TOKEN)}
    }  # fmt: skip
    assert concealed_places(body) == {
        "argv[2]": body["argv"][2]["salted"], "env:TOKEN": body["env"]["TOKEN"]["salted"]
    }  # fmt: skip
    data = canonical(body)
    assert ARGUMENT.encode() not in data
    assert TOKEN.encode() not in data
    assert SALT.hex().encode() not in data
    plain = World()
    assert ARGUMENT.encode() in canonical(grant(plain).body), "without the mark it is there"


def test_bodies_of_anybody() -> None:
    assert concealed_places({}) == {}
    assert concealed_places({"argv": {"bytes": 1}, "env": ["x"]}) == {}
    assert concealed_places({"argv": ["x", {"salted": 1}, {}], "env": {"A": 1}}) == {}


def test_the_runner_compares_what_is_concealed() -> None:
    world = secret_world()
    granted = grant(world)
    assert world.release(granted).request_id == granted.body["id"]
    other = {
        "salt": {"salt": bytes(32)},
        "argument": {"execution": replace(granted.execution, argv=("deploy", "--key", "changed"))},
        "variable": {
            "execution": replace(granted.execution, env={**granted.execution.env, "TOKEN": "changed"})
        },
    }
    for changes in other.values():
        with pytest.raises(Denied) as denied:
            world.release(granted, **changes)
        denial = denied.value.denial
        assert denial.code is Code.IDENTITY_MISMATCH
        assert "with secrets, is not what the runner sees" in denial.sentence
        assert not any(value in denial.sentence for value in (ARGUMENT, TOKEN, "changed"))


def test_a_leaf_that_tells_the_secret_is_refused_without_telling_it_again() -> None:
    world = secret_world()
    granted = grant(world)
    told = {**granted.body, "argv": list(granted.execution.argv)}
    with pytest.raises(Denied, match="with secrets") as denied:
        world.release(granted, receipt=world.receipt(told))
    assert ARGUMENT not in denied.value.denial.sentence


@pytest.mark.parametrize(
    "argv",
    [
        ("deploy", ARGUMENT),
        ("deploy", "--key", "HIDDEN!"),
        ("deploy", "-v", "--key", ARGUMENT),
        ("deploy", ARGUMENT, "x"),
    ],
)
def test_a_denial_tells_no_argument(argv: tuple[str, ...]) -> None:
    world = secret_world()
    execution = world.execution(argv=argv, env={"PATH": "/usr/bin:/bin", "TOKEN": TOKEN})
    artifact = grant(world).artifact
    for given in (artifact, b"{}"):
        decision = world.decide(given, execution=execution)
        assert decision.denial is not None
        told = repr(decision.denial) + repr(decision.checks) + canonical(decision.body).decode()
        assert not any(value in told for value in (ARGUMENT, TOKEN, "HIDDEN!"))
        assert decision.body["argv"][0] == "deploy"


def test_a_rule_for_another_user_conceals_as_well() -> None:
    """Who runs it is the artifact's word: another one must not make a request tell more."""
    world = secret_world()
    world.authorities["authorizations"][0]["uids"] = [4242]
    decision = world.decide(execution=world.execution(argv=("deploy", ARGUMENT)))
    assert decision.denial is not None
    assert decision.denial.code is Code.INVALID_SIGNATURE
    assert ARGUMENT.encode() not in canonical(decision.body)


def test_other_executables_are_told() -> None:
    world = secret_world()
    rules = world.authorities["authorizations"]
    rules.insert(0, {**rules[0], "name": "other", "paths": ["/usr/bin/other"]})
    del rules[1]["secret"]
    assert grant(world).body["argv"][2] == ARGUMENT
    unseen = Denial(Code.IDENTITY_MISMATCH, "it could not be observed", "try again")
    hidden = world.decide(observation=unseen, execution=world.execution(argv=("deploy", ARGUMENT)))
    assert ARGUMENT.encode() not in canonical(hidden.body), "what it is nobody knows"


def test_without_governance_nobody_knows_what_is_secret() -> None:
    world = World()
    denial = Denial(Code.GOVERNANCE_MISMATCH, "it does not verify", "see attestd doctor")
    request = world.request(execution=world.execution(argv=("deploy", ARGUMENT)))
    body = decide(request, replace(world.context(), trust=denial)).body
    assert ARGUMENT.encode() not in canonical(body)
    assert {name for name, value in body["env"].items() if not isinstance(value, dict)} == set()


def test_a_replay_says_what_it_cannot() -> None:
    world = secret_world()
    body = grant(world).body
    entry = parse_entry(
        format_entry(
            type_=EntryType.DECISION_ALLOW, time=format_time_us(NOW), seq=7, boot=BOOT, body=dict(body)
        )
    )
    host = world.trust().hosts[world.host.id]
    allow = "permit (principal, action, resource);"
    told = replay(
        entry,
        policies=load(exec=allow + "forbid (principal, action, resource) when { context.argc == 3 };"),
        host=host,
    )
    assert told.differs
    asked = replay(
        entry,
        policies=load(
            exec=allow + 'forbid (principal, action, resource) when { context.argv.contains("x") };'
        ),
        host=host,
    )
    assert asked.permitted is None
    assert asked.words == "a policy looks at argv, which is not in the log"
    named = replay(
        entry,
        policies=load(
            exec=allow + 'forbid (principal, action, resource) when { context.env.contains("TOKEN") };'
        ),
        host=host,
    )
    assert named.differs
