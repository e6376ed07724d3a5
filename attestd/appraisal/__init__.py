"""What is measured, turned into findings: quotes, boots, IMA lists."""
