# The image of poolinit: one static binary, /poolinit. `make image` builds it.
#
# An image of your own takes only the file:
#
#     COPY --from=poolinit /poolinit /poolinit
#
# and none of the settings below. docs/docker.md says which of them to repeat;
# deploy/docker/ has images for PHP, Python, Node and Go.

ARG BASE=golang:1.26

# The compiler runs on the building machine and makes code for the image's
# architecture. A builder without BUILDPLATFORM counts as amd64.
FROM --platform=${BUILDPLATFORM:-linux/amd64} ${BASE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH VERSION
RUN GOARCH=$TARGETARCH VERSION=$VERSION tools/build.sh /out/poolinit \
	&& tools/licenses.sh /out/poolinit >/out/LICENSES

# The least changing layers come first, so that the cache keeps them.
FROM scratch
# docker run -e overrides POOLINIT_LISTEN and POOLINIT_HTTP; an empty value switches it off.
ENV POOLINIT_LISTEN=tcp://:8089 POOLINIT_HTTP=:9090
EXPOSE 8089 9090
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/poolinit", "health"]
ENTRYPOINT ["/poolinit"]
ARG VERSION REVISION
LABEL org.opencontainers.image.title="poolinit" \
	org.opencontainers.image.description="Keeps a pool of worker processes alive, as PID 1 of a container" \
	org.opencontainers.image.url="https://github.com/poolinit/poolinit" \
	org.opencontainers.image.source="https://github.com/poolinit/poolinit" \
	org.opencontainers.image.documentation="https://github.com/poolinit/poolinit/blob/main/docs/docker.md" \
	org.opencontainers.image.licenses="MIT" \
	org.opencontainers.image.version="${VERSION}" \
	org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
