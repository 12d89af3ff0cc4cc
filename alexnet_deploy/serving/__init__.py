"""Serving: artifacts behind HTTP and gRPC, as Triton and KServe speak it (the Open Inference Protocol, version 2).

settings.py    what can be set
tensors.py     tensors and requests, whatever the wire
cost.py        how long a batch will take; backlog.py: whether the event loop keeps up
batching.py    rows of several requests in one call of the engine
models.py      a Runtime with its queue; inputs of three forms
sources.py     which files they are
repository.py  models by name and version; loaded and unloaded while requests run
metrics.py     Prometheus; description.py: what the server says about itself
guard.py       the token, pages of other sites, endless headers
http_api.py    Starlette: the protocol, /classify, the page in web/; http_body.py and http_codec.py are its ends
grpc_api.py    gRPC: the same; messages.py and open_inference.proto are its schema
ports.py       listening sockets
server.py      both protocols together, and an orderly end
running.py     a server until it is told to stop: the command, or a thread
"""
