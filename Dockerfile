# The image holds one static binary, a CA bundle, a few default settings and /data. No shell, no root.
#
#   docker build -t postern .                          compiles inside; this is the usual way
#   … --build-arg BINARY=prebuilt -f Dockerfile DIR    takes what is in DIR, for a builder that cannot pull the
#                                                      golang image: the files postern, image.yaml and
#                                                      ca-certificates.crt, and an empty directory data
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
