"""HTTP: operations and their document, limits, errors; the server that runs them."""
