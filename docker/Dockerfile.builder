# The whole pipeline: trains, prunes, exports and packages. 9.5 GB, 3 of them NVIDIA's, for the
# machine that makes files and never for a device. From the root of a checkout:
#   docker buildx bake -f docker/docker-bake.hcl builder --load
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" pare:builder run
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS installed
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# The secrets are for networks with a package index or certificates of their own.
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/ca.pem \
    if [ -s /etc/ssl/ca.pem ]; then export PIP_CERT=/etc/ssl/ca.pem; fi \
    && python3 -m venv /opt/pare \
    && /opt/pare/bin/pip install --no-cache-dir -c constraints.txt ".[tflite]"

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=installed /opt/pare /opt/pare
# HOME holds what libraries cache, for whichever user it is run as.
ENV PATH=/opt/pare/bin:$PATH HOME=/tmp ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /work
ENTRYPOINT ["pare"]
