# The command `mainspring`, for one-off jobs. Build from the repository's root: docker build -f deploy/docker/tools.Dockerfile .
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt ./
COPY libs libs
COPY deploy/nats deploy/nats
RUN python -m venv /opt/mainspring && /opt/mainspring/bin/pip install -c constraints.txt \
      ./libs/contracts ./libs/svckit ./libs/eventkit ./libs/proof ./libs/pysource ./libs/client

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin mainspring
COPY --from=build /opt/mainspring /opt/mainspring
ENV PATH=/opt/mainspring/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
# It ends when its job is done.
HEALTHCHECK NONE
ENTRYPOINT ["mainspring"]
