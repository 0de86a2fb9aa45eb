# The image holds one static binary, a CA bundle, a few default settings and /data. No shell, no root.
#
#   docker build -t postern .                          compiles inside; this is the usual way, and what `make image` does
#   … --build-arg GO_IMAGE=mirror.example/golang:1.26  takes the toolchain from elsewhere; by a digest it is pinned
#   … --platform linux/amd64,linux/arm64               makes one image for both, without an emulator
#   … --build-arg BINARY=prebuilt -f Dockerfile DIR    takes what is in DIR, for a builder that has no golang image:
#                                                      the files postern, image.yaml and ca-certificates.crt, and an
#                                                      empty directory data
#
# One commit, toolchain and time give one digest, in OCI's format: buildah and podman take --timestamp, BuildKit
# SOURCE_DATE_EPOCH and --output type=image,rewrite-timestamp=true. tools/image tests this, and what is below.
ARG BINARY=compiled
ARG GO_IMAGE=golang:1.26-bookworm

# Compiles on the machine that builds, for the machine that runs.
FROM --platform=$BUILDPLATFORM $GO_IMAGE AS compiled
WORKDIR /src
# Modules first: this layer is reused as long as go.mod and go.sum stay.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# One a line: Debian 12's buildah and podman read the first alone.
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w" -o /out/postern . \
 && cp image.yaml /etc/ssl/certs/ca-certificates.crt /out/ \
 && mkdir /out/data

FROM scratch AS prebuilt
COPY . /out/

# The default is said again: without it Debian 12's buildah does not see that this stage needs that one.
FROM ${BINARY:-compiled} AS chosen

FROM scratch
COPY --from=chosen /out/postern /postern
COPY --from=chosen /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Mount your own settings over this file. Its contents are not ENV: the environment would silently win over yours.
COPY --from=chosen /out/image.yaml /etc/postern/postern.yaml
# A fresh volume takes the owner of what lies under it, so the SQLite store can be made there.
COPY --from=chosen --chown=65532:65532 /out/data /data
# A number, so that Kubernetes can prove that it is not root (runAsNonRoot).
USER 65532:65532
WORKDIR /data
VOLUME /data
# Every command in the container finds the same settings and store: healthcheck, and client create by exec.
ENV POSTERN_CONFIG=/etc/postern/postern.yaml
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/postern", "healthcheck"]
ENTRYPOINT ["/postern"]
CMD ["serve"]
# Last, because they differ from commit to commit: what is above is reused.
ARG VERSION=devel
ARG REVISION=unknown
LABEL org.opencontainers.image.title="postern" \
      org.opencontainers.image.description="A reverse proxy that authenticates, in front of Web APIs that should not have to" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
