"""The authorization artifact: statement, DSSE envelope, scope, containment, issuing. Pure."""
