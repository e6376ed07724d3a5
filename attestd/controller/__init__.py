"""The mesh controller: an HTTP service whose roles are switched on one by one. Needs the packages of `attestd[controller]`."""
