"""The benchmark: what a message costs a filter, with this library and others. See README.md."""
