# Perdure on GPUs. The base brings Python, CUDA, NCCL and a PyTorch built for them, which pip must not replace.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.06-py3
FROM ${BASE_IMAGE}

# The base pins its own packages through PIP_CONSTRAINT, some below what datatrove and transformers need.
ENV PIP_CONSTRAINT= \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/perdure
COPY . .
# PyTorch is held at the version that is there: an install that wants another one fails instead of replacing it.
RUN python -c "import importlib.metadata as m; print('torch==' + m.version('torch'))" > /tmp/constraints.txt \
    && python -m pip install -c /tmp/constraints.txt '.[hub]' \
    && rm /tmp/constraints.txt

RUN useradd --create-home --uid 10001 perdure
USER 10001:10001
WORKDIR /home/perdure
ENTRYPOINT ["perdure"]
CMD ["--help"]
