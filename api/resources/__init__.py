"""The resources, a module for each kind of thing that a client can name."""
