"""The verifier: appraises evidence of hosts, and says what it saw in signed results."""
