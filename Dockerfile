# docker build -t chinwag . && docker run --read-only -p 8080:8080 -v chinwag:/data chinwag
FROM rust:1-slim-bookworm AS build
# SQLite and the cryptography for TLS are C code and are built from source.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /chinwag
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY static static
# Cargo.toml declares the benches, so Cargo needs their files.
COPY benches benches
RUN cargo build --release --locked --features cluster --bin chinwag \
    && mkdir /data

# The base image has the C library, but no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /chinwag/target/release/chinwag /usr/local/bin/chinwag
# Docker copies this directory, with its owner, into a new volume.
COPY --from=build --chown=nonroot:nonroot /data /data
VOLUME /data
# chinwag writes only to /data, so the root file system can be read-only.
ENV CHINWAG_DB=/data/chinwag.db CHINWAG_LISTEN=0.0.0.0:8080
EXPOSE 8080
USER nonroot
# chinwag handles SIGTERM as process 1, too. The image has no program for a HEALTHCHECK of /healthz;
# configure the check in the orchestrator.
ENTRYPOINT ["/usr/local/bin/chinwag"]
