"""A client for registries: the OCI distribution protocol, and Docker's before it.

On top of urllib3, which keeps connections, TLS and proxies; ``docs/dependencies.md`` says why not on one of
the registry libraries.  Sources: OCI distribution specification; distribution ``docs/spec/auth``.
"""
