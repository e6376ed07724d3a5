"""Writes the golden vectors beside it: `python -m tests.tcg.make_vectors`. A test compares them with this output.

What they hold is frozen: approvals signed by authorities, receipts and host records depend on every byte. Keys are
those with the private scalars named in the vectors; ECDSA signatures are deterministic (RFC 6979).
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.tcg import binding, credential, nv, pcr, policy, public
from tests.tcg import build

DIRECTORY = Path(__file__).parent / "vectors"
HOST_ID = "00" * 31 + "aa"
SCALARS = {"root": 1001, "platform": 1002, "epoch": 1003, "lease": 1004, "ak": 1005}
EKS: dict[str, tuple[int, ec.EllipticCurve]] = {
    "L-2": (1006, ec.SECP256R1()),
    "H-2": (1007, ec.SECP256R1()),
    "H-3": (1008, ec.SECP384R1()),
}


def keys() -> dict[str, object]:
    """Public areas, Names, templates."""
    publics = {name: build.key(scalar).public_key() for name, scalar in SCALARS.items()}
    release = policy.release_policy(public.authority_name(publics["root"]))
    return {
        "scalars": SCALARS,
        "authority_public": {name: public.authority_public(key).hex() for name, key in publics.items()},
        "authority_name": {name: public.authority_name(key).hex() for name, key in publics.items()},
        "release_policy": release.hex(),
        "release_key_template": public.release_key_template(release).hex(),
        "attestation_key_template": public.attestation_key_template().hex(),
        "host_id_of_ak_area": public.host_id(public.authority_public(publics["ak"])),
    }


def indices() -> dict[str, object]:
    """NV public areas and Names."""
    name = public.authority_name(build.key(SCALARS["epoch"]).public_key())
    return {
        "epoch_authority_scalar": SCALARS["epoch"],
        "epoch_index": f"{nv.EPOCH_INDEX:#010x}",
        "counter_index": f"{nv.COUNTER_INDEX:#010x}",
        "epoch_branches": [branch.hex() for branch in nv.epoch_branches(name)],
        "epoch_public": nv.epoch_public(name, written=False).hex(),
        "epoch_public_written": nv.epoch_public(name, written=True).hex(),
        "epoch_name": nv.epoch_name(name).hex(),
        "counter_public": nv.counter_public(written=False).hex(),
        "counter_public_written": nv.counter_public(written=True).hex(),
        "counter_name": nv.nv_name(nv.counter_public(written=True)).hex(),
    }


def policies() -> dict[str, object]:
    """The policies that authorities approve, with their signatures."""
    private = {name: build.key(scalar) for name, scalar in SCALARS.items()}
    names = {name: public.authority_name(key.public_key()) for name, key in private.items()}
    epoch_name = nv.epoch_name(names["epoch"])
    selection = pcr.selection_from_text("0,2,4,7,11,12")
    pcr_digest = pcr.composite(selection, {index: bytes([index]) * 32 for index in selection.pcrs})
    state = {"epoch_name": epoch_name, "epoch": 7, "selection": selection, "pcr_digest": pcr_digest}
    platform = policy.platform_policy(**state, lease_name=None)
    leased = policy.platform_policy(**state, lease_name=names["lease"])
    root = policy.root_policy(platform_name=names["platform"], epoch_name=epoch_name, max_epoch=9)
    bump = policy.epoch_set_policy(epoch_name=epoch_name, epoch=8)
    approvals = {
        "platform": (platform, policy.REF_PLATFORM, private["platform"]),
        "platform_with_lease": (leased, policy.REF_PLATFORM, private["platform"]),
        "root": (root, policy.REF_ROOT, private["root"]),
        "epoch_set_8": (bump, policy.REF_EPOCH_SET, private["epoch"]),
    }
    return {
        "selection": str(selection),
        "selection_bytes": selection.marshal().hex(),
        "pcr_digest": pcr_digest.hex(),
        "epoch": 7,
        "max_epoch": 9,
        "nv_write_cp_hash": policy.nv_write_cp_hash(nv_name=epoch_name, data=(8).to_bytes(8, "big")).hex(),
        "approvals": {
            what: {
                "policy_digest": digest.hex(),
                "policy_ref": reference.decode(),
                "signature": build.ecdsa(key, policy.approval_message(digest, reference)).hex(),
            }
            for what, (digest, reference, key) in approvals.items()
        },
    }


def quotes() -> dict[str, object]:
    """extraData for each purpose, and a quote by the key `ak` over the first of them."""
    extra = {
        purpose.value: binding.extra_data(purpose, host_id=HOST_ID, data=b"example data\n")
        for purpose in binding.Purpose
    }
    selection = pcr.selection_from_text("0,2,4,7,11,12")
    pcr_digest = pcr.composite(selection, {index: bytes([index]) * 32 for index in selection.pcrs})
    attest = build.attest(build.quote_body(selection.marshal(), pcr_digest), extra_data=extra["checkpoint"])
    return {
        "host_id": HOST_ID,
        "data": "example data\n",
        "extra_data": {purpose: value.hex() for purpose, value in extra.items()},
        "ak_scalar": SCALARS["ak"],
        "attest": attest.hex(),
        "signature": build.ecdsa(build.key(SCALARS["ak"]), attest).hex(),
        "pcr_digest": pcr_digest.hex(),
    }


def credentials() -> dict[str, object]:
    """Credentials for the key `ak`, with ECC endorsement keys of these scalars; all that is drawn at random is 0x5a."""
    name = public.authority_name(build.key(SCALARS["ak"]).public_key())
    secret = bytes(range(32))
    found = {}
    for template, (scalar, curve) in EKS.items():
        ek = build.ek_public(template, build.key(scalar, curve).public_key())
        made = credential.make_credential(
            public.parse_public(ek), name=name, secret=secret, random=lambda size: b"\x5a" * size
        )
        found[template] = {
            "ek_scalar": scalar,
            "ek_public": ek.hex(),
            "id_object": made.id_object.hex(),
            "encrypted_secret": made.encrypted_secret.hex(),
        }
    return {"name": name.hex(), "secret": secret.hex(), "random": "5a", "credentials": found}


def render() -> dict[str, str]:
    """The vector files by name."""
    files = {"keys": keys(), "indices": indices(), "policies": policies(), "quotes": quotes()}
    files["credentials"] = credentials()
    return {f"{name}.json": json.dumps(content, indent=1) + "\n" for name, content in files.items()}


if __name__ == "__main__":
    for name, text in render().items():
        (DIRECTORY / name).write_text(text)
