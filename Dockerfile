# docker build -t tokenmill . && docker run --rm -v tokenmill:/tokenmill tokenmill pipeline
FROM python:3.11.13-slim-bookworm

# git: revisions of runs; make, gcc: `make` and what compiles kernels; util-linux has setpriv, by which stages end with their run
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make gcc g++ util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 tokenmill

WORKDIR /tokenmill
# by themselves first: the layer of the environment stays while code changes
COPY --chown=tokenmill constraints.txt pyproject.toml tokenmill.py README.md LICENSE ./
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# an index of builds of torch, such as one for CPUs alone; none: the one that pip asks by itself
ARG TORCH_INDEX=
RUN python -m pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)" \
    && python -m pip install -c constraints.txt '.[dask,postgres,s3]'

COPY --chown=tokenmill . .
RUN chown tokenmill /tokenmill
USER tokenmill
# what a run leaves (data, DVC's cache, the record of runs) lies below /tokenmill: a volume there keeps it, and the code, too, so
# that a new image wants a new volume
ENV PYTHONUNBUFFERED=1 GOMP_SPINCOUNT=1000
ENTRYPOINT ["tokenmill"]
CMD ["help"]
