# The image of poolinit: one static binary, /poolinit. `make image` builds it.
#
# An image of your own takes only the file:
#
#     COPY --from=poolinit /poolinit /poolinit
#
# and nothing else of what is set below. docs/docker.md says which of it to set
# again; deploy/docker/ has images for PHP, Python, Node and Go.

ARG BASE=golang:1.26

# The compiler runs on the machine that builds, and makes code for the one that
# the image is for. Builders that do not tell the two apart are taken for amd64.
FROM --platform=${BUILDPLATFORM:-linux/amd64} ${BASE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH VERSION
RUN GOARCH=$TARGETARCH VERSION=$VERSION tools/build.sh /out/poolinit \
	&& tools/licenses.sh /out/poolinit >/out/LICENSES

# What changes least comes first: it is not done again.
FROM scratch
# What docker run -e sets POOLINIT_LISTEN or POOLINIT_HTTP to counts; empty, there is none.
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
