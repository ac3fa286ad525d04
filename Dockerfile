# docker build -t chinwag . && docker run --read-only -p 8080:8080 -v chinwag:/data chinwag
FROM rust:1-slim-bookworm AS build
# SQLite and the cryptography of TLS are built from source, in C.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /chinwag
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY static static
# The manifest names them.
COPY benches benches
RUN cargo build --release --locked --bin chinwag \
    && mkdir /data

# The C library and nothing else: no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /chinwag/target/release/chinwag /usr/local/bin/chinwag
# Docker gives a new volume what is here, with its owner.
COPY --from=build --chown=nonroot:nonroot /data /data
VOLUME /data
# Nothing else is written, so the root file system may be read-only.
ENV CHINWAG_DB=/data/chinwag.db CHINWAG_LISTEN=0.0.0.0:8080
EXPOSE 8080
USER nonroot
# It hears SIGTERM as the first process, too. There is nothing in the image to ask /healthz with:
# let the orchestrator do that.
ENTRYPOINT ["/usr/local/bin/chinwag"]
