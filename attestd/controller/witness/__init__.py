"""The witness: cosigns checkpoints of logs that only grew since it saw them last (https://c2sp.org/tlog-witness)."""
