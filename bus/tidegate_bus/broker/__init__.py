"""The broker itself: its process, its configuration, its streams, its certificates.

server      an embedded nats-server            accounts    its configuration: who may do what
lifeline    children that end with us          topology    streams and consumers as code
generated   files that only we write           tls         certificates for both sides
authority   making them, for development
"""
