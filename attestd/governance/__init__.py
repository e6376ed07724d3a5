"""Governance: who may approve what, and in which platform states. Pure; files come in as bytes."""
