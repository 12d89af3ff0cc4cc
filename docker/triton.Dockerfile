# NVIDIA Triton with a model repository inside.
#
#   alexnet-deploy triton-repo models/alexnet.int8.plan -o repository
#   docker build -f docker/triton.Dockerfile --build-arg TRITON=... -t alexnet-triton .
#   docker run --rm --gpus all -p 127.0.0.1:8000-8002:8000-8002 alexnet-triton
#
# TRITON is the image of the Triton release that has the plan's TensorRT version, by its full name: `alexnet-deploy triton-repo`
# prints it. There is no default, because another release would refuse the plan.
ARG TRITON
FROM ${TRITON}
COPY --chown=1000:1000 repository /models
USER 1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
ENTRYPOINT ["tritonserver", "--model-repository=/models", "--strict-readiness=true", "--exit-on-error=true"]
