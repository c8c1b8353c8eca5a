# syntax=docker/dockerfile:1
# From the lock file, checked by its hashes; what builds stays behind.
#   docker build -t infer-gateway .
#   docker run --read-only --tmpfs /tmp -p 8080:8080 infer-gateway serve --http 0.0.0.0:8080 …

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
WORKDIR /src
RUN python -m venv /opt/infer-gateway
# apart from the source, so that a change of it resolves nothing again
COPY requirements/run.txt requirements/run.txt
RUN /opt/infer-gateway/bin/python -m pip install --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY protocols protocols
COPY adapters adapters
COPY conformance conformance
RUN /opt/infer-gateway/bin/python -m pip install --no-deps --no-build-isolation .
# what is in the image, for who looks after it
COPY sbom.cdx.json /opt/infer-gateway/share/
# of no use to whoever only runs it; then byte code, since nobody can write any at run time (some packages have files
# for other Pythons, which do not compile)
RUN /opt/infer-gateway/bin/python -m pip uninstall -q -y hatchling editables pip \
    && (python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/infer-gateway/lib || true)

FROM python:3.13-slim
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="infer-gateway" \
      org.opencontainers.image.description="A lightweight gateway for LLM inference" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN python -m pip uninstall -q -y pip && rm -rf /root/.cache
COPY --from=build /opt/infer-gateway /opt/infer-gateway
ENV PATH=/opt/infer-gateway/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
# HTTP, gRPC, admin, endpoint picker and its health
EXPOSE 8080 50051 9090 9002 9003
STOPSIGNAL SIGTERM
ENTRYPOINT ["infer-gateway"]
CMD ["serve"]
