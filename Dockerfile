# Two images out of one file, and nothing in them but what runs: `worker`, which links native code and brings
# ONNX Runtime along, and `fleet`, every other role as a static binary.
#
#   docker build --target worker -t embedfleet-worker:dev .
#   docker build --target fleet  -t embedfleet:dev .
#
# The versions below are the ones that go.mod and scripts/versions.env were tested with; a test in deploy/
# parses this file, looks for every path that it copies and compares the versions.
ARG GO_IMAGE=golang:1.26-bookworm
ARG NODE_IMAGE=node:22-bookworm-slim
ARG BASE_IMAGE=debian:bookworm-slim

# ONNX Runtime's library out of its npm package, checked by digest: the same step as `make setup` takes.
FROM ${NODE_IMAGE} AS onnxruntime
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY scripts/setup.sh scripts/versions.env ./scripts/
RUN EMBEDFLEET_CACHE=/out scripts/setup.sh onnxruntime \
 && install -D -m 0644 /out/onnxruntime/*/libonnxruntime.so /lib-out/libonnxruntime.so

FROM ${GO_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
# Modules first: they change less often than the code.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
# With cgo for the worker alone; what need not link it is static and cannot crash in it. The folder .git is
# part of the context for the sake of the revision in embed_build_info.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    mkdir -p /out/worker /out/fleet \
 && CGO_ENABLED=1 go build -trimpath -o /out/worker/ ./cmd/worker \
 && CGO_ENABLED=0 go build -trimpath -o /out/fleet/ ./cmd/scheduler ./cmd/monitor ./cmd/gateway ./cmd/enqueue

# What both images stand on: certificates for sources and hubs, time zones, and a user who owns one folder.
FROM ${BASE_IMAGE} AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates tzdata \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 embedfleet \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin embedfleet \
 && install -d -o 10001 -g 10001 /cache
WORKDIR /cache
ENV HOME=/cache \
    EMBEDFLEET_CACHE=/cache

FROM base AS worker
# ONNX Runtime is C++. /state is what one worker alone remembers.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o 10001 -g 10001 /state
COPY --from=onnxruntime /lib-out/libonnxruntime.so /usr/local/lib/embedfleet/libonnxruntime.so
COPY --from=build /out/worker/ /usr/local/bin/
ENV ONNXRUNTIME_LIB=/usr/local/lib/embedfleet/libonnxruntime.so \
    HF_HOME=/cache/huggingface
USER 10001:10001
# A new volume takes the folder's owner.
VOLUME ["/cache", "/state"]
ENTRYPOINT ["worker"]

FROM base AS fleet
COPY --from=build /out/fleet/ /usr/local/bin/
USER 10001:10001
# A role has to be named: docker run embedfleet:dev scheduler --help
CMD ["enqueue", "--help"]
