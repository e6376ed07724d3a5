"""Cedar policies: what may run, beyond what authorities signed."""

from attestd.governance.policy_schema import DEFAULT_POLICY, EMPTY_ENTITIES, SCHEMA

__all__ = ["DEFAULT_POLICY", "EMPTY_ENTITIES", "SCHEMA"]
