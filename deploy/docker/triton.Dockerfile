# Triton with Mainspring's engine. Build from the repository's root: docker build -f deploy/docker/triton.Dockerfile .
# From 24.11 on the server's own Python is 3.12, which the engine needs (3.11 or later).
FROM nvcr.io/nvidia/tritonserver:24.12-py3
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /src
COPY constraints-engine.txt ./
COPY services/inference/engine services/inference/engine
RUN pip install -c constraints-engine.txt ./services/inference/engine \
    && install -d -o 10001 -g 10001 /var/lib/mainspring/triton/repository /var/lib/mainspring/triton/files
USER 10001
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# Models are loaded and unloaded by inference's calls only; a configuration is written whole, so completing it would start
# every model's process twice. A stub that died makes the server wait in vain when it stops.
ENTRYPOINT ["tritonserver", "--model-repository=/var/lib/mainspring/triton/repository", "--model-control-mode=explicit", "--disable-auto-complete-config", "--exit-timeout-secs=5", "--grpc-infer-allocation-pool-size=0"]
