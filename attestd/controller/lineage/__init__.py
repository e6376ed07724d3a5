"""The lineage role: keeps receipts of all hosts, and joins them."""
