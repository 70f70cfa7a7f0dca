"""One file a section: each has functions that return a `Section` of a `Run`."""
