"""`alexnet-deploy serve`: artifacts behind HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path

import click

from alexnet_deploy.cli.common import Command, Result, note
from alexnet_deploy.cli.units import BATCH, BYTES, SECONDS


@click.command(cls=Command)
@click.argument("artifacts", nargs=-1, required=True, metavar="[NAME[:VERSION]=]ARTIFACT|DIR...")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 is all of them.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="For HTTP; 0 takes a free one.")
@click.option("--grpc-port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="For gRPC; 0 takes a free one.")
@click.option("--no-grpc", is_flag=True, help="HTTP only.")
@click.option("--max-batch", default=64, show_default=True, type=BATCH, help="Pictures in one call of the engine.")
@click.option("--max-delay", default="2ms", show_default=True, type=SECONDS, help="How long one waits for others to join it.")
@click.option("--max-wait", default="250ms", show_default=True, type=SECONDS, help="Longer queues are refused with 503.")
@click.option("--max-body", default="64MB", show_default=True, type=BYTES, help="Of one request.")
@click.option("--max-rows", default=256, show_default=True, type=click.IntRange(1), help="Pictures in one request.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads in one call of an engine.  [the backend's choice]")
@click.option("--instances", default=1, show_default=True, type=click.IntRange(1), help="Calls of an engine at once.")
@click.option("--grace", default="30s", show_default=True, type=SECONDS, help="For accepted requests, after a stop.")
@click.option("--token", envvar="ALEXNET_DEPLOY_TOKEN", default="", help="Asked for as `Authorization: Bearer TOKEN`.")
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="PEM file; with --tls-key.")
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="PEM file; with --tls-cert.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--backend", help="onnxruntime, openvino, ...  [what fits the artifact]")
def command(
    artifacts: tuple[str, ...],
    host: str,
    port: int,
    grpc_port: int,
    no_grpc: bool,
    max_batch: int,
    max_delay: float,
    max_wait: float,
    max_body: float,
    max_rows: int,
    threads: int | None,
    instances: int,
    grace: float,
    token: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    device: str,
    backend: str | None,
) -> Result:
    """Serve artifacts as Triton and KServe do, until Ctrl-C or SIGTERM.

    Open Inference Protocol v2 over HTTP and gRPC, POST /classify for curl, /metrics for Prometheus, and a page at / to drop
    a picture on. A DIR is a model repository, DIR/<model>/<version>/<artifact>. Requests are batched together.

    \b
    Example:
      alexnet-deploy serve models/alexnet.int8.plan
      alexnet-deploy serve shoes=models/alexnet.onnx shoes:2=models/alexnet.int8.plan --port 9000
      curl --data-binary @cat.jpg http://127.0.0.1:8000/classify
    """
    from alexnet_deploy.extras import extra
    from alexnet_deploy.report.serving import served
    from alexnet_deploy.serving.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        grpc_port=None if no_grpc else grpc_port,
        max_batch=max_batch,
        max_delay_s=max_delay,
        max_wait_s=max_wait,
        max_body_bytes=int(max_body),
        max_rows=max_rows,
        instances=instances,
        grace_s=grace,
        token=token,
        tls_certificate=tls_cert,
        tls_key=tls_key,
    )
    with extra("serve", "alexnet-deploy serve"):
        from alexnet_deploy.serving.running import serve
        from alexnet_deploy.serving.server import Server
    if not settings.loopback and not token:
        note(f"everybody who reaches {host} may ask, and load and unload models: --token asks for a password")

    def announce(server: Server) -> None:
        for model in server.repository.models():
            runtime = model.runtime
            note(f"{model.name}, version {model.version}: {runtime.running.path.name} with {runtime.backend} on {runtime.device}")
        note(
            f"ready at {server.http_url}" + (f", gRPC at {server.grpc_address}" if server.grpc_address else "") + "; Ctrl-C stops"
        )

    summary = serve(artifacts, settings, announce, device=device, backend=backend, threads=threads)
    return Result(summary, served(summary))
