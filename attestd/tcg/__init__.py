"""TPM 2.0 and TCG wire formats and what is computed from them: pure, no TPM and no I/O.

`binding` what the attestation key signs for us · `pcr` selections and composites · `public` keys and Names ·
`nv` the two NV indices · `policy` authorization policies, computed offline · `signature`, `attest` the
structures that a TPM signs · `quote` their verification · `endorsement`, `ek_certificate`, `ek_anchors`, `ek_chain`
endorsement keys and who vouches for them · `credential` what only their TPMs open.
"""
