"""The only package that talks to a TPM.

`Tpm` is a connection, `TpmOwner` the one thread that uses it in the agent, `EmbeddedTpm` a software TPM of our own.
Imports are from the modules: `device`, `keys`, `release`, `owner`, `embedded`.
"""
