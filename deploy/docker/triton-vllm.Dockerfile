# Triton with its vLLM backend for answers on a GPU, and Mainspring's engine for embedding models.
# Build from the repository's root: docker build -f deploy/docker/triton-vllm.Dockerfile .
FROM nvcr.io/nvidia/tritonserver:25.12-vllm-python-py3
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /src
COPY constraints-engine.txt ./
COPY services/inference/engine services/inference/engine
# Without what they need: numpy is there, and vLLM's must not be replaced by the older one of our constraints. vLLM writes what it compiles
# below HOME.
RUN grep -E '^(hatchling|packaging|pathspec|pluggy|trove-classifiers|xllamacpp)==' constraints-engine.txt > engine.txt \
    && pip install --no-deps -r engine.txt \
    && pip install --no-deps --no-build-isolation ./services/inference/engine \
    && install -d -o 10001 -g 10001 /var/lib/mainspring/triton/repository /var/lib/mainspring/triton/files /var/lib/mainspring/home
ENV HOME=/var/lib/mainspring/home HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
USER 10001
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# As in triton.Dockerfile.
ENTRYPOINT ["tritonserver", "--model-repository=/var/lib/mainspring/triton/repository", "--model-control-mode=explicit", "--disable-auto-complete-config", "--exit-timeout-secs=5", "--grpc-infer-allocation-pool-size=0"]
