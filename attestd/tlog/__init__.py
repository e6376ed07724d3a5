"""RFC 6962 Merkle trees, C2SP signed notes, checkpoints, proofs and tiles. Pure."""
