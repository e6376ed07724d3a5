"""Software TPMs: provisioning of swtpm state with an endorsement key and certificates."""
