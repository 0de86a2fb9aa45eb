# The image holds one static binary, a CA bundle, a few default settings and /data. No shell, no root.
#
#   docker build -t postern .                          compiles inside; this is the usual way
#   … --build-arg BINARY=prebuilt CONTEXT              takes CONTEXT/postern, CONTEXT/image.yaml,
#                                                      CONTEXT/ca-certificates.crt as they are, for
#                                                      a builder that cannot pull the golang image
#
# .ci/run builds it the second way and looks into the result.
ARG BINARY=compiled

# Compiles on the machine that builds, for the machine that runs: --platform linux/amd64,linux/arm64 needs no emulator.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS compiled
WORKDIR /src
# Modules first: this layer is reused as long as go.mod and go.sum stay.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
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
# Mount your own settings over this file. Not ENV: the environment would silently win over them.
COPY --from=chosen /out/image.yaml /etc/postern/postern.yaml
# A fresh volume takes the owner of what lies under it, so the SQLite store can be made there.
COPY --from=chosen --chown=65532:65532 /out/data /data
# A number, so that Kubernetes can prove that it is not root (runAsNonRoot).
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/postern", "healthcheck"]
ENTRYPOINT ["/postern"]
CMD ["serve", "--config", "/etc/postern/postern.yaml"]
