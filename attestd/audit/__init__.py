"""The audit log: sealed batches of entries in SQLite, append-only, each under a TPM-signed checkpoint."""
