"""What is measured, turned into a finding: the seam for event logs, IMA lists and attestation results."""
