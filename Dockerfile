# planrunner with PostgreSQL's client programs, as a user without rights: `make image`, then
#   docker run --rm -v "$PWD:/work" -e SOURCE_PASSWORD -e TARGET_PASSWORD planrunner run orders.yaml
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /src
COPY locks/build.txt locks/runtime.txt locks/
RUN python -m venv /opt/planrunner \
 && python -m pip install --no-cache-dir --require-hashes -r locks/build.txt \
 && /opt/planrunner/bin/pip install --no-cache-dir --require-hashes -r locks/runtime.txt
COPY pyproject.toml README.md LICENSE sbom.cdx.json ./
COPY plans/demo.yaml plans/
COPY share share
COPY planrunner planrunner
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/planrunner/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM python:${PYTHON}
# pg_dump reads servers of its own version and older ones: the newest is in PostgreSQL's own archive, which Debian's
# package knows. Versions of Debian's packages are not pinned: its archive keeps only the last.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
 && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
 && apt-get install --yes --no-install-recommends postgresql-client-18 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home planrunner \
 && install --directory --owner=planrunner --group=planrunner /work
COPY --from=build /opt/planrunner /opt/planrunner
ENV PATH=/opt/planrunner/bin:$PATH
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["planrunner"]
CMD ["--help"]
