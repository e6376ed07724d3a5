"""The Cedar schema of execution policies: attestd's own, the same bytes on every host, published for other tools.

`Trust` takes no other `policy/schema.cedarschema`: a policy was reviewed against exactly these types.
"""

from typing import Final

__all__ = ["DEFAULT_POLICY", "DEFAULT_POLICY_NAME", "EMPTY_ENTITIES", "SCHEMA"]

SCHEMA: Final = b"""\
// attestd: schema of execution policies, version 1.
// What each attribute means: docs/formats/policy.md of attestd.

entity Group in [Group];
entity User in [Group];               // id: the requester's uid, decimal
entity Publisher in [Publisher];
entity Executable in [Publisher];     // id: SHA-256 of the file, lower-case hex
entity Tier enum ["software", "uncertified", "vtpm", "hardware"];
entity Userspace enum ["none", "encrypted-tpm", "ima-appraise", "verity"];
entity TrustLoss enum ["kill", "report"];

action "exec" appliesTo {
  principal: [User],
  resource: [Executable],
  context: {
    executable: String,               // real path
    directory: String,                // of the executable, "/" at its end
    interpreters: Set<Executable>,    // of a script
    argv: Set<String>,
    argc: Long,
    command_line: String,             // argv in order, quoted as for a POSIX shell
    cwd: String,
    uid: Long,                        // who it runs as
    env: Set<String>,                 // names
    inputs: Set<String>,              // paths
    host: String,
    labels: Set<String>,              // "name=value"
    platform: String,                 // name of the platform policy
    tier: Tier,
    userspace: Userspace,
    findings: Set<String>,
    depth: Long,                      // delegations above the artifact
    time: Long,                       // seconds since 1970, UTC
    hour: Long,                       // 0 to 23, UTC
    weekday: Long,                    // 1 (Monday) to 7, UTC
    artifact: {
      ttl_s: Long,
      max_uses?: Long,                // absent: unlimited
      max_evidence_age_s: Long,
      on_trust_loss: TrustLoss,
      recheck_interval_s: Long,
      signers: Set<String>,           // key ids
      metadata: Set<String>,          // "name=value"
      requested_by: String,
      approved_by: Set<String>,
      on_behalf_of?: String,
      reason: String,
    },
  },
};
"""

# The policy that an artifact names unless its issuer chose another.
DEFAULT_POLICY_NAME: Final = "exec"
DEFAULT_POLICY: Final = b"""\
// Authorities and the scope of each artifact decide alone.
@id("all")
permit (principal, action, resource);
"""

EMPTY_ENTITIES: Final = b"[]\n"
