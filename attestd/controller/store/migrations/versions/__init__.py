"""How the schema came to be: one module a step, in order."""
