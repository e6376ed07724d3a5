"""A machine that really boots: Debian under QEMU (software emulation) with UEFI Secure Boot, swtpm, IMA and systemd.

For tests, on a host with Debian 12, as root. It is no part of an installed attestd. docs/vm.md says how it is built.
"""
