# mainspring-data-ingest with Ray: the nodes of a cluster that refines (deploy/kuberay), and the service that uses it, since both must have the same
# Python, Ray and release. Build from the repository's root: docker build -f deploy/docker/ray.Dockerfile -t mainspring/data-ingest-ray:0.1.0 .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt ./
COPY libs libs
# libs/eventkit packs the bus's declaration through a link.
COPY deploy/nats deploy/nats
COPY services/data-ingest services/data-ingest
RUN python -m venv /opt/mainspring && /opt/mainspring/bin/pip install -c constraints.txt \
      ./libs/contracts ./libs/svckit ./libs/eventkit ./libs/pysource ./services/data-ingest[ray]

FROM python:3.11-slim-bookworm
# KubeRay's probes call wget.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin mainspring \
    && install -d -o mainspring -g mainspring /var/lib/mainspring/artifacts /var/lib/mainspring/scratch
COPY --from=build /opt/mainspring /opt/mainspring
ENV PATH=/opt/mainspring/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    MAINSPRING_GRPC_HOST=0.0.0.0 MAINSPRING_GRPC_PORT=50051 MAINSPRING_OPS_PORT=9090
USER 10001
EXPOSE 50051 9090
# KubeRay probes its nodes itself; of the service, Kubernetes asks /readyz on port 9090.
HEALTHCHECK NONE
ENTRYPOINT []
CMD ["mainspring-data-ingest"]
