"""Fetches and publishes governance: the I/O around `attestd.governance`."""
