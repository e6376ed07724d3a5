"""IMA measurement lists: what the kernel says it measured while the system ran (Linux, security/integrity/ima)."""
