"""The enforcement point: the only process that becomes another user and executes. It acts on receipts alone."""
