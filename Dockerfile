# The job as an image; scripts/build-image calls this, docs/running/docker.md explains it.
# The base brings glibc, and Python 3.11 or newer or apt-get to install it. CUDA's libraries come with torch's wheels, so
# the smallest of NVIDIA's images is enough for the CUDA variant, and any Debian or Ubuntu for the CPU one.
ARG BASE_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04

# Each may be replaced by a folder, with --build-context NAME=FOLDER: wheels that no index has, models to bake in.
FROM scratch AS wheels
FROM scratch AS local-models

FROM ${BASE_IMAGE} AS base
# hadolint ignore=DL3008
RUN command -v python3 > /dev/null && [ -e /etc/ssl/certs/ca-certificates.crt ] \
    || { apt-get update && apt-get install -y --no-install-recommends python3 ca-certificates \
    && apt-get clean && rm -rf /var/lib/apt/lists/*; }

# pip, what builds the package, and what lists the parts: none of it reaches the image.
FROM base AS tools
# hadolint ignore=DL3008
RUN python3 -m ensurepip --version > /dev/null 2>&1 \
    || { apt-get update && apt-get install -y --no-install-recommends python3-venv \
    && apt-get clean && rm -rf /var/lib/apt/lists/*; }
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /src
COPY requirements/build.txt requirements/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv /opt/tools && /opt/tools/bin/pip install --require-hashes -r requirements/build.txt

FROM tools AS dependencies
ARG VARIANT=cuda
COPY requirements/${VARIANT}.txt requirements/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip /opt/lora-job \
    && /opt/tools/bin/pip --python /opt/lora-job/bin/python install --require-hashes --only-binary :all: \
    --find-links /wheels -r "requirements/${VARIANT}.txt"

FROM dependencies AS code
COPY pyproject.toml README.md LICENSE ./
COPY lora_engine lora_engine
COPY job job
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheel . \
    && /opt/tools/bin/pip --python /opt/lora-job/bin/python install --no-deps --no-index --prefix /install /wheel/*.whl \
    && cp -r /install/. /opt/lora-job \
    && /opt/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
    --output-file /install/sbom.cdx.json /opt/lora-job/bin/python

# /models: the folder that replaces local-models, and those that MODELS names: "owner/name owner/name@revision".
FROM code AS models
ARG MODELS=""
COPY scripts/bake_models.py .
RUN --mount=type=secret,id=hf_token,target=/run/secrets/hf_token \
    HF_TOKEN_PATH=/run/secrets/hf_token HF_HOME=/tmp/hub /opt/lora-job/bin/python bake_models.py /models ${MODELS}
COPY --from=local-models / /models/
RUN chmod -R a+rX /models

FROM base
COPY --from=dependencies /opt/lora-job /opt/lora-job
COPY --from=models /models /models
COPY --from=code /install /opt/lora-job

# The root may be read-only: all that is written goes to /scratch, whoever the process runs as. LOGNAME stands for the
# entry in /etc/passwd that an arbitrary user lacks.
ENV PATH=/opt/lora-job/bin:$PATH \
    LORA_JOB_WORKDIR=/scratch/work \
    HOME=/scratch \
    TMPDIR=/scratch \
    LOGNAME=lora-job \
    XDG_CACHE_HOME=/scratch/cache \
    HF_HOME=/scratch/cache/huggingface \
    MPLCONFIGDIR=/scratch/cache/matplotlib \
    TORCH_HOME=/scratch/cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/scratch/cache/inductor \
    TRITON_CACHE_DIR=/scratch/cache/triton \
    CUDA_CACHE_PATH=/scratch/cache/cuda \
    CUBLAS_WORKSPACE_CONFIG=:4096:8 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1

ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
# Here, since older builders reuse the labels of another revision unless a RUN stands between the arguments and them.
RUN install -d -m 1777 /scratch
LABEL org.opencontainers.image.title="lora-job" \
      org.opencontainers.image.description="One manifest in; one Stable Diffusion LoRA per caption strategy and a comparison out." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

WORKDIR /scratch
VOLUME /scratch
USER 10001:0
ENTRYPOINT ["lora-job"]
