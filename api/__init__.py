"""The HTTP face of Aforo: a thin Falcon ASGI application. Resources parse, call one use case, and render."""
