# The slim runtime: onnxruntime on the CPU, and the server. No PyTorch, no compiler.
#
#   docker build -f docker/runtime.Dockerfile -t alexnet-deploy .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/models:/models:ro" -e ALEXNET_DEPLOY_TOKEN=... alexnet-deploy /models/alexnet.onnx
#
# For a GPU: --build-arg EXTRAS=rtx,serve, and docker run --gpus all.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY alexnet_deploy ./alexnet_deploy
COPY training ./training
ARG EXTRAS=cpu,serve
RUN python -m venv /opt/alexnet-deploy \
    && /opt/alexnet-deploy/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin alexnet
COPY --from=build /opt/alexnet-deploy /opt/alexnet-deploy
ENV PATH=/opt/alexnet-deploy/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ALEXNET_DEPLOY_CACHE=/tmp/alexnet-deploy
USER 10001
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
# Inside a container every address is the container's own; what reaches it is what `docker run -p` lets through.
ENTRYPOINT ["alexnet-deploy", "serve", "--host", "0.0.0.0"]
