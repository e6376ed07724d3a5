"""UEFI event logs: what the firmware and the boot loaders say they measured (TCG PC Client Platform Firmware Profile)."""
